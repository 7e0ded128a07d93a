//! Configurations, right and wrong.

use std::path::Path;
use std::time::Duration;

use super::*;

const WHOLE: &str = r#"
mode = "enforce"
state_dir = "state"

[[issuer]]
name = "corp"
issuer = "https://id.example"
audience = ["interdict"]
groups_claim = ["realm_access", "roles"]

[[issuer]]
name = "cluster"
issuer = "https://cluster.example"
audience = ["interdict"]
jwks_file = "cluster.jwks"
algorithms = ["RS256"]

[[target]]
name = "shop"
protocol = "postgres"
addresses = ["db.internal", "10.0.0.7:5433", "[2001:db8::7]:5432"]
environment = "prod"
ca_file = "db-ca.pem"
[target.credential]
user = "app"
password_file = "app.password"
[target.columns]
"customers.email" = "pii.email"
"sales.orders.card" = "pci.card"

[[network]]
prefix = "10.1.0.0/16"
ports = [123, 80]
verdict = "direct"

[[network]]
prefix = "2001:db8:bad::/48"
verdict = "deny"

[audit.clickhouse]
url = "http://localhost:8123"
password_env = "CH_PASSWORD"

[approval]
hold = "2m"

[limits]
max_time = "90s"

[unix]
allow = ["/run/nscd/socket", "@app"]
hide = ["/run/*/agent.sock"]
"#;

#[test]
fn a_whole_file_is_read() {
    let config = parse(WHOLE, Path::new("/etc/interdict/interdict.toml")).expect("valid");
    assert_eq!(config.state_dir, Path::new("/etc/interdict/state"));
    assert_eq!(config.issuers.len(), 2);
    assert_eq!(config.issuers[0].keys, KeySource::Discovery);
    assert_eq!(
        config.issuers[1].keys,
        KeySource::File("/etc/interdict/cluster.jwks".into())
    );
    let target = &config.targets[0];
    let ports: Vec<u16> = target.addresses.iter().map(|a| a.port).collect();
    assert_eq!(ports, [5432, 5433, 5432]);
    assert_eq!(target.columns.len(), 2);
    assert_eq!(config.unix.allow, ["/run/nscd/socket", "@app"]);
    assert!(config.unix.hide.contains(&"/run/docker.sock".into()));
    assert!(config.unix.hide.contains(&"/run/*/agent.sock".into()));
    let networks: Vec<_> = config
        .networks
        .iter()
        .map(|n| (n.bits, n.port, n.verdict))
        .collect();
    let (direct, deny) = (NetworkVerdict::Direct, NetworkVerdict::Deny);
    let expected = [(16, Some(123), direct), (16, Some(80), direct), (48, None, deny)];
    assert_eq!(networks, expected);
    assert_eq!(config.approval.hold, Duration::from_secs(120));
    assert_eq!(config.limits.max_time, Some(Duration::from_secs(90)));
    assert_eq!(config.audit.dir, Path::new("/etc/interdict/state/audit"));
}

#[test]
fn http_targets_have_a_port_and_a_place_for_their_credential() {
    let text = "[[target]]\nname = \"api\"\nprotocol = \"http\"\naddresses = [\"api.internal\"]\n\
                [target.credential]\nas = \"header\"\nname = \"X-Api-Key\"\nsecret_env = \"KEY\"\n\
                [[target]]\nname = \"old\"\nprotocol = \"http\"\naddresses = [\"old.internal\"]\ntls = \"disabled\"\n";
    let config = parse(text, Path::new("interdict.toml")).expect("valid");
    let ports: Vec<u16> = config.targets.iter().map(|t| t.addresses[0].port).collect();
    assert_eq!(ports, [443, 80]);
    let place = config.targets[0].credential.as_ref().map(|c| &c.place);
    assert_eq!(place, Some(&CredentialPlace::Header("x-api-key".into())));
}

#[test]
fn a_target_has_bounds_a_client_certificate_and_a_signature() {
    let text = "[[target]]\nname = \"s\"\nprotocol = \"http\"\naddresses = [\"s3.internal\"]\ntls_min_version = \"1.3\"\n\
                client_cert_file = \"c.pem\"\nclient_key_file = \"/k.pem\"\n\
                [target.http]\nmax_body = \"64 MiB\"\nmax_answer = \"1 GiB\"\nmax_streams = 10\npinned = \"pass\"\ndescriptor_set = \"d.pb\"\n\
                [target.credential]\nas = \"sigv4\"\naccess_key_id = \"A1\"\nsecret_env = \"S\"\nregion = \"eu-1\"\nservice = \"s3\"\n";
    let config = parse(text, Path::new("/etc/interdict.toml")).expect("valid");
    let target = &config.targets[0];
    assert_eq!(
        target.http,
        HttpSettings {
            max_body: 64 << 20,
            max_answer: Some(1 << 30),
            max_streams: 10,
            pinned: Pinned::Pass,
            descriptor_set: Some("/etc/d.pb".into()),
            ..HttpSettings::default()
        }
    );
    let expected = ClientCertificate {
        cert_file: "/etc/c.pem".into(),
        key_file: "/k.pem".into(),
    };
    assert_eq!(target.upstream.client_certificate, Some(expected));
    assert!(target.upstream.only_tls13);
    let credential = target.credential.as_ref().expect("a credential");
    assert_eq!(credential.user, "A1");
    assert!(matches!(&credential.place, CredentialPlace::SigV4 { region, .. } if region == "eu-1"));
}

#[test]
fn without_a_file_everything_is_safe() {
    let config = defaults();
    assert_eq!(config.mode, Mode::Enforce);
    assert!(config.targets.is_empty() && config.issuers.is_empty());
}

#[test]
fn a_workload_is_its_own_principal_unless_a_token_says_who() {
    let text = "[[workload]]\nname = \"a\"\nslice = \"mcp.slice\"\n\
                [[workload]]\nname = \"b\"\ncgroup = \"/x/*/\"\nidentity_token_file = \"t\"\n\
                mode = \"observe\"\ndial_from = \"workload\"\non_attach = \"drain\"\n";
    let config = parse(text, Path::new("/etc/interdict.toml")).expect("valid");
    let [a, b] = config.workloads.as_slice() else {
        panic!("two workloads")
    };
    assert_eq!(a.identity, WorkloadIdentity::Named("a".into()));
    assert_eq!(
        (a.mode, a.dial_from, a.on_attach),
        (None, DialFrom::Host, OnAttach::Close)
    );
    assert_eq!(b.identity, WorkloadIdentity::TokenFile("/etc/t".into()));
    assert_eq!(
        (b.mode, b.dial_from, b.on_attach),
        (Some(Mode::Observe), DialFrom::Workload, OnAttach::Drain)
    );
    assert_eq!(b.selector.cgroup.as_ref().map(Glob::as_str), Some("x/*"));
}

#[test]
fn records_are_not_sent_in_the_clear() {
    let text = "[audit.clickhouse]\nurl = \"http://clickhouse.internal:8123\"\n";
    let errors = parse(text, Path::new("interdict.toml")).expect_err("wrong");
    assert!(errors.to_string().starts_with("interdict.toml:2:"), "{errors}");
    assert!(errors.to_string().contains("only on loopback"), "{errors}");
}

#[test]
fn all_mistakes_come_at_once() {
    let text = "mode = \"off\"\n[approval]\nhold = \"soon\"\nrequest_ttl = \"-1s\"\n";
    let errors = parse(text, Path::new("interdict.toml")).expect_err("wrong");
    let lines: Vec<_> = errors.mistakes.iter().filter_map(|m| m.line).collect();
    assert_eq!(lines, [1, 3, 4]);
}

#[test]
fn one_address_is_one_target() {
    let text = "[[target]]\nname = \"a\"\nprotocol = \"postgres\"\naddresses = [\"h\"]\n\
                [[target]]\nname = \"b\"\nprotocol = \"postgres\"\naddresses = [\"H:5432\"]\n";
    let errors = parse(text, Path::new("interdict.toml")).expect_err("wrong");
    assert!(
        errors.to_string().contains("one address is one target"),
        "{errors}"
    );
}
