//! What people write wrong: each mistake is named with its line and the fix, and several at once.

use std::collections::BTreeSet;
use std::path::Path;

use super::parse;

/// A wrong text, the line that is named, and what the error tells to write.
pub(super) const MISTAKES: &[(&str, usize, &str)] = &[
    ("[[workload]]\nname = \"a\"\n", 2, "selects nothing"),
    (
        "[[workload]]\nname = \"a\"\nsystemd_unit = \"mcp\"\n",
        3,
        "\"mcp-*.service\"",
    ),
    (
        "[[workload]]\nname = \"a\"\nslice = \"-.slice\"\n",
        3,
        "\"mcp.slice\"",
    ),
    (
        "[[workload]]\nname = \"a\"\ncgroup = \"/**\"\n",
        3,
        "the whole host",
    ),
    (
        "[[workload]]\nname = \"a\"\nuid = 7\ndial_from = \"here\"\n",
        4,
        "\"workload\"",
    ),
    (
        "[[workload]]\nname = \"a\"\nuid = 7\non_attach = \"keep\"\n",
        4,
        "\"drain\"",
    ),
    (
        "[[workload]]\nname = \"a\"\nuid = 7\nidentity = \"b\"\nidentity_token_file = \"t\"\n",
        4,
        "not both",
    ),
    (
        "[[workload]]\nname = \"a\"\nnamespace = \"tools\"\n",
        2,
        "[kubernetes]",
    ),
    (
        "[[workload]]\nname = \"a\"\nuid = 7\nidentity_pod_token = \"v/token\"\n",
        4,
        "only pods",
    ),
    (
        "[kubernetes]\napi = \"https://k\"\n[[workload]]\nname = \"a\"\nnamespace = \"n\"\nidentity_pod_token = \"token\"\n",
        6,
        "\"interdict/token\"",
    ),
    (
        "[kubernetes]\napi = \"https://k\"\n[[workload]]\nname = \"a\"\nnamespace = \"n\"\nidentity_pod_token = \"../token\"\n",
        6,
        "VOLUME/PATH",
    ),
    (
        "[kubernetes]\napi = \"https://k\"\n[[workload]]\nname = \"a\"\nnamespace = \"n\"\nidentity = \"b\"\nidentity_pod_token = \"v/token\"\n",
        6,
        "not both",
    ),
    ("[kubernetes]\napi = \"http://10.0.0.1\"\n", 2, "https://"),
    ("[telemetry]\nlisten = \"0.0.0.0:9464\"\n", 2, "expose = true"),
    ("[telemetry]\nlisten = \"9464\"\n", 2, "127.0.0.1:9464"),
    ("[telemetry]\nlisten = \"127.0.0.1:0\"\n", 2, "9464"),
    ("[telemetry]\nexpose = true\n", 2, "or remove it"),
    (
        "[telemetry.traces]\nendpoint = \"http://collector.example:4318\"\n",
        2,
        "https://",
    ),
    (
        "[telemetry.traces]\nendpoint = \"https://a b\"\n",
        2,
        "https://collector.example:4318",
    ),
    (
        "[telemetry.traces]\nendpoint = \"https://h\"\nsample_percent = 101\n",
        3,
        "0 to 100",
    ),
    ("mode = \"off\"\n", 1, "\"enforce\" or \"observe\""),
    ("\nmodus = \"enforce\"\n", 2, "did you mean `mode`?"),
    ("[approval]\nhold = \"soon\"\n", 2, "\"30s\""),
    (
        "[[target]]\nname = \"a\"\nprotocol = \"http\"\naddresses = [\"h\"]\n[target.http]\nmax_body = \"1 GiB\"\n",
        6,
        "\"128 MiB\"",
    ),
    (
        "[[target]]\nname = \"a\"\nprotocol = \"http\"\naddresses = [\"h\"]\n[target.http]\nuploads = \"yes\"\n",
        6,
        "\"collect\" or \"stream\"",
    ),
    (
        "[[target]]\nname = \"a\"\nprotocol = \"http\"\naddresses = [\"h\"]\n[target.http]\nmax_upload = \"1 GiB\"\n",
        6,
        "uploads = \"stream\"",
    ),
    (
        "[[target]]\nname = \"a\"\nprotocol = \"mcp\"\naddresses = [\"h\"]\n[target.http]\nuploads = \"stream\"\n",
        6,
        "protocol = \"http\"",
    ),
    (
        "[[target]]\nname = \"a\"\nprotocol = \"llm\"\naddresses = [\"h\"]\n[target.http]\ndescriptor_set = \"d\"\n",
        6,
        "protocol = \"http\", where gRPC is",
    ),
    (
        "[[target]]\nname = \"a\"\nprotocol = \"http\"\naddresses = [\"h\"]\n[target.http]\npinned = \"yes\"\n",
        6,
        "\"block\" or \"pass\"",
    ),
    (
        "[[target]]\nname = \"a\"\nprotocol = \"http\"\naddresses = [\"h\"]\nclient_cert_file = \"c\"\n",
        5,
        "client_key_file",
    ),
    (
        "[[target]]\nname = \"a\"\nprotocol = \"http\"\naddresses = [\"h\"]\ntls_min_version = \"1.1\"\n",
        5,
        "\"1.2\" or \"1.3\"",
    ),
    (
        "[[target]]\nname = \"a\"\nprotocol = \"http\"\naddresses = [\"h\"]\n[target.credential]\nas = \"sigv4\"\nsecret_env = \"S\"\n",
        6,
        "access_key_id",
    ),
    ("[limits]\nmax_time = \"0s\"\n", 2, "\"30s\""),
    ("[limits]\nmax_time = \"soon\"\n", 2, "\"30s\""),
    (
        "[[network]]\nprefix = \"10.1.2.3/16\"\nverdict = \"deny\"\n",
        2,
        "\"10.1.0.0/16\"",
    ),
    (
        "[[network]]\nprefix = \"10.1.0.0/33\"\nverdict = \"deny\"\n",
        2,
        "\"10.1.0.0/16\"",
    ),
    (
        "[[network]]\nprefix = \"0.0.0.0/0\"\nverdict = \"direct\"\n",
        2,
        "Name the networks",
    ),
    (
        "[[network]]\nprefix = \"::/0\"\nports = []\nverdict = \"deny\"\n",
        2,
        "leave it out",
    ),
    (
        "[[network]]\nprefix = \"10.0.0.0/8\"\nverdict = \"pass\"\n",
        3,
        "\"direct\"",
    ),
    (
        "[[issuer]]\nname = \"a\"\nissuer = \"http://id.example\"\naudience = [\"x\"]\n",
        3,
        "https://",
    ),
    (
        "[[issuer]]\nname = \"a\"\nissuer = \"https://id.example\"\naudience = []\n",
        4,
        "at least one",
    ),
    (
        "[[issuer]]\nname = \"workload\"\nissuer = \"https://id.example\"\naudience = [\"x\"]\n",
        2,
        "give the issuer another",
    ),
    (
        "[[issuer]]\nname = \"a\"\nissuer = \"https://id.example\"\naudience = [\"x\"]\nalgorithms = [\"HS256\"]\n",
        5,
        "RS256",
    ),
    ("[unix]\nallow = [\"nscd\"]\n", 2, "ss -xl"),
    ("[unix]\nhide = [\"run/x\"]\n", 2, "an absolute path"),
    ("[unix]\nhide = [\"/run/../x\"]\n", 2, "an absolute path"),
    ("[unix]\nhide = [\"/\"]\n", 2, "an absolute path"),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"telnet\"\naddresses = [\"a:1\"]\n",
        3,
        "\"postgres\"",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"postgres\"\naddresses = [\"a:x\"]\n",
        4,
        "host:port",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"opaque\"\naddresses = [\"a\"]\n",
        4,
        "host:port",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"postgres\"\naddresses = [\"a\"]\ntls = \"disabled\"\n",
        5,
        "loopback",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"postgres\"\naddresses = [\"a\"]\n[target.credential]\nuser = \"u\"\n",
        5,
        "password_file or password_env",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"http\"\naddresses = [\"a\"]\n[target.credential]\nas = \"cookie\"\npassword_env = \"K\"\n",
        6,
        "\"bearer\"",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"http\"\naddresses = [\"a\"]\n[target.credential]\nas = \"header\"\nname = \"Host\"\npassword_env = \"K\"\n",
        7,
        "x-api-key",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"http\"\naddresses = [\"a\"]\ntls = \"disabled\"\n[target.credential]\nas = \"bearer\"\npassword_env = \"K\"\n",
        5,
        "loopback",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"postgres\"\naddresses = [\"a\"]\n[target.credential]\nuser = \"u\"\npassword_env = \"K\"\nplaceholder = \"Zoë\"\n",
        8,
        "printable ASCII",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"postgres\"\naddresses = [\"a\"]\n[target.credential]\npassword_env = \"K\"\n",
        5,
        "user is missing",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"http\"\naddresses = [\"a\"]\n[target.columns]\n\"t.email\" = \"pii.email\"\n",
        6,
        "postgres",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"postgres\"\naddresses = [\"a\"]\n[target.columns]\n\"email\" = \"pii.email\"\n",
        6,
        "table.column",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"postgres\"\naddresses = [\"a\"]\n[target.columns]\n\"t.email\" = \"PII\"\n",
        6,
        "pii.email",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"postgres\"\naddresses = [\"a\"]\nadresses = [\"b\"]\n",
        5,
        "did you mean `addresses`?",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"postgres\"\naddresses = [\"a\"]\npassword_file = \"p\"\n",
        5,
        "it belongs to [target.credential]",
    ),
    ("[approval]\nhold = 30\n", 2, "such as \"30s\""),
    ("[audit]\nsegment_bytes = \"64MiB\"\n", 2, "without quotes"),
    ("[audit]\nsegment_bytes = 1000\n", 2, "at least 65536"),
    ("[audit]\nmin_free_bytes = -1\n", 2, "a whole number"),
    ("[limits]\nmax_rows = 1.5\n", 2, "a whole number"),
    ("[[audit]]\nsegment_age = \"1m\"\n", 1, "[name]"),
    (
        "[audit.clickhouse]\nurl = \"https://c:8443\"\nlegacy = \"yes\"\n",
        3,
        "true or false",
    ),
    ("[audit.clickhouse]\nuser = \"u\"\n", 1, "write url = "),
    ("[audit.clickhouse]\nurl = \"c:8443\"\n", 2, "https://host:8443"),
    (
        "[audit.clickhouse]\nurl = \"http://c.example:8123\"\n",
        2,
        "only on loopback",
    ),
    (
        "[audit.clickhouse]\nurl = \"https://c:8443\"\nbatch_records = 0\n",
        3,
        "at least 1",
    ),
    (
        "[audit.clickhouse]\nurl = \"https://c:8443\"\npassword_file = \"p\"\npassword_env = \"P\"\n",
        1,
        "not both",
    ),
    (
        "[[network]]\nprefix = \"10.0.0.0/8\"\nports = [\"https\"]\nverdict = \"deny\"\n",
        3,
        "[443]",
    ),
    (
        "[[network]]\nprefix = \"10.0.0.0/8\"\nports = [70000]\nverdict = \"deny\"\n",
        3,
        "65535",
    ),
    (
        "[[network]]\nprefix = \"10.0.0.0/8\"\n",
        1,
        "\"direct\", or \"redirect\", or \"deny\"",
    ),
    (
        "[[network]]\nprefix = \"intranet\"\nverdict = \"deny\"\n",
        2,
        "\"10.1.0.0/16\"",
    ),
    (
        "[[issuer]]\nname = \"a\"\nissuer = \"https://id.example\"\naudience = \"x\"\n",
        4,
        "[\"…\"]",
    ),
    (
        "[[issuer]]\nname = \"a\"\nissuer = \"https://id.example\"\n",
        1,
        "`audience` is missing",
    ),
    (
        "[[issuer]]\nname = \"a b\"\nissuer = \"https://id.example\"\naudience = [\"x\"]\n",
        2,
        "at most 64 letters",
    ),
    (
        "[[issuer]]\nname = \"a\"\nissuer = \"https://id.example\"\naudience = [\"x\"]\njwks_file = \"k\"\njwks_url = \"https://id.example/k\"\n",
        6,
        "not both",
    ),
    (
        "[[issuer]]\nname = \"a\"\nissuer = \"https://id.example\"\naudience = [\"x\"]\njwks_url = \"http://id.example/k\"\n",
        5,
        "only on loopback",
    ),
    (
        "[[issuer]]\nname = \"a\"\nissuer = \"https://id.example\"\naudience = [\"x\"]\ngroups_claim = []\n",
        5,
        "realm_access",
    ),
    (
        "[[issuer]]\nname = \"a\"\nissuer = \"https://id.example\"\naudience = [\"x\"]\ngroups_claim = 7\n",
        5,
        "a list of them",
    ),
    (
        "[[issuer]]\nname = \"a\"\nissuer = \"https://id.example\"\naudience = [\"x\"]\nskew = \"1 minute\"\n",
        5,
        "\"30s\"",
    ),
    (
        "[[issuer]]\nname = \"a\"\nissuer = \"https://id.example\"\naudience = [\"x\"]\n[[issuer]]\nname = \"b\"\nissuer = \"https://id.example\"\naudience = [\"x\"]\n",
        7,
        "one entry for each",
    ),
    (
        "[[issuer]]\nname = \"a\"\nissuer = \"https://id.example\"\naudience = [\"x\"]\n[[issuer]]\nname = \"a\"\nissuer = \"https://two.example\"\naudience = [\"x\"]\n",
        6,
        "give each its own name",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"postgres\"\naddresses = [\"a\"]\n[[target]]\nname = \"t\"\nprotocol = \"postgres\"\naddresses = [\"b\"]\n",
        6,
        "give each its own name",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"postgres\"\naddresses = [\"a\"]\n[[target]]\nname = \"u\"\nprotocol = \"postgres\"\naddresses = [\"a\"]\n",
        6,
        "one address is one target",
    ),
    (
        "[[target]]\nprotocol = \"http\"\naddresses = [\"a\"]\n",
        1,
        "write name = ",
    ),
    (
        "[[target]]\nname = \"t\"\naddresses = [\"a\"]\n",
        1,
        "write protocol = \"postgres\", or",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"http\"\n",
        1,
        "write addresses = [\"…\"]",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"http\"\naddresses = []\n",
        4,
        "db.internal:5432",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"http\"\naddresses = \"a:443\"\n",
        4,
        "[\"…\"]",
    ),
    ("[target]\nname = \"t\"\n", 1, "[[name]]"),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"http\"\naddresses = [\"https://a\"]\n",
        4,
        "host:port",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"http\"\naddresses = [\"a\"]\nenvironment = \"prod east\"\n",
        5,
        "at most 64 letters",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"http\"\naddresses = [\"a\"]\nlabels = { team = 7 }\n",
        5,
        "{ name = \"…\" }",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"http\"\naddresses = [\"a\"]\ntls = \"off\"\n",
        5,
        "tls = \"verify\"",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"http\"\naddresses = [\"a\"]\nrecording_limit = \"all\"\n",
        5,
        "\"1 GiB\"",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"http\"\naddresses = [\"a\"]\nrecording = \"everything\"\n",
        5,
        "\"operations\"",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"http\"\naddresses = [\"a\"]\nwhen_full = \"pass\"\n",
        5,
        "\"metadata\"",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"http\"\naddresses = [\"a\"]\nmode = \"audit\"\n",
        5,
        "\"enforce\" or \"observe\"",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"http\"\naddresses = [\"a\"]\n[target.credential]\npassword_env = \"K\"\n",
        5,
        "as = \"bearer\"",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"http\"\naddresses = [\"a\"]\n[target.credential]\nas = \"basic\"\npassword_env = \"K\"\n",
        6,
        "needs a user",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"http\"\naddresses = [\"a\"]\n[target.credential]\nas = \"basic\"\nuser = \"a:b\"\npassword_env = \"K\"\n",
        7,
        "cannot hold a colon",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"http\"\naddresses = [\"a\"]\n[target.credential]\nas = \"header\"\npassword_env = \"K\"\n",
        6,
        "needs a name",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"http\"\naddresses = [\"a\"]\n[target.credential]\nas = \"bearer\"\nuser = \"u\"\npassword_env = \"K\"\n",
        7,
        "remove it",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"http\"\naddresses = [\"a\"]\n[target.credential]\nas = \"bearer\"\nname = \"X\"\npassword_env = \"K\"\n",
        7,
        "remove it",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"postgres\"\naddresses = [\"a\"]\n[target.credential]\nas = \"bearer\"\nuser = \"u\"\npassword_env = \"K\"\n",
        6,
        "remove it",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"postgres\"\naddresses = [\"a\"]\n[target.credential]\nuser = \"u\"\nname = \"X\"\npassword_env = \"K\"\n",
        7,
        "remove it",
    ),
    (
        "[[target]]\nname = \"t\"\nprotocol = \"postgres\"\naddresses = [\"a\"]\n[target.credential]\nuser = \"u\"\npassword_env = \"K\"\npassword_file = \"p\"\n",
        5,
        "not both",
    ),
    ("[masking.overrides]\nEmail = \"redact\"\n", 2, "pii.email"),
    ("mode = enforce\n", 1, "not TOML"),
    ("mode = \"enforce\"\nmode = \"observe\"\n", 2, "not TOML"),
    ("[approval\nhold = \"1s\"\n", 1, "not TOML"),
];

/// Each mistake is named with its line, and the text says what to write.
#[test]
fn mistakes_name_their_line_and_the_fix() {
    let distinct: BTreeSet<&str> = MISTAKES.iter().map(|(text, ..)| *text).collect();
    assert!(distinct.len() == MISTAKES.len() && distinct.len() >= 50);
    for (text, line, fix) in MISTAKES {
        let errors = parse(text, Path::new("interdict.toml")).expect_err(text);
        let named = errors
            .mistakes
            .iter()
            .any(|m| m.line == Some(*line) && m.what.contains(fix));
        assert!(named, "{text}\n{errors}");
    }
}

/// Whatever is wrong is said in one go, and nothing of what stands in for it.
#[test]
fn one_mistake_does_not_hide_another() {
    let text = "modus = \"enforce\"\n\
                [approval]\nhold = 30\nrequest_ttl = \"soon\"\n\
                [[target]]\nname = \"a\"\nprotocol = \"telnet\"\naddresses = [\"x:y:z\"]\ntls = \"off\"\nmode = \"audit\"\n\
                [target.credential]\npassword_env = \"A\"\npassword_file = \"b\"\n\
                [[target]]\nprotocol = \"http\"\ntls = \"no\"\n\
                [[issuer]]\nname = \"workload\"\nissuer = \"http://id.example\"\naudience = []\nskew = \"1\"\nalgorithms = [\"none\"]\n";
    let errors = parse(text, Path::new("interdict.toml")).expect_err("wrong");
    let lines: Vec<usize> = errors.mistakes.iter().filter_map(|m| m.line).collect();
    assert_eq!(
        lines,
        [1, 3, 4, 7, 8, 9, 10, 11, 14, 14, 16, 18, 19, 20, 21, 22],
        "{errors}"
    );
    assert!(!errors.to_string().contains("\"?\""), "{errors}");
}

/// What was meant is not missing too.
#[test]
fn a_misspelt_key_is_one_mistake() {
    let text = "[[target]]\nname = \"a\"\nprotocol = \"http\"\nadresses = [\"x\"]\n";
    let errors = parse(text, Path::new("interdict.toml")).expect_err("wrong");
    let lines: Vec<usize> = errors.mistakes.iter().filter_map(|m| m.line).collect();
    assert_eq!(lines, [4], "{errors}");
}

#[test]
fn broken_lines_are_all_named() {
    let errors = parse("mode = enforce\nstate_dir = x\n", Path::new("interdict.toml")).expect_err("wrong");
    let lines: BTreeSet<usize> = errors.mistakes.iter().filter_map(|m| m.line).collect();
    assert_eq!(lines, [1, 2].into(), "{errors}");
}
