//! Every key of the configuration file: its shape, whether it must be there, what it is without, and what it says. The
//! parser (`raw`) is held against this list by tests, both ways.

use serde_json::{Map, Value, json};

/// The shape of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// A file or directory; relative ones are relative to the file's directory.
    Path,
    /// A number and a unit: `30s`.
    Duration,
    /// A whole number between these.
    Integer(u64, u64),
    Bool,
    OneOf(&'static [&'static str]),
    Texts,
    /// One text, or several.
    TextOrTexts,
    Ports,
    /// Names and texts that people choose.
    Map,
    Table,
    Tables,
}

/// Whether a value must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Required,
    /// Without it something else holds, as its words say.
    Optional,
    /// Without it this holds (as TOML).
    Default(&'static str),
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    /// The table that it stands in; empty at the top.
    pub table: &'static str,
    pub name: &'static str,
    pub kind: Kind,
    pub need: Need,
    pub about: &'static str,
}

use Kind::{Bool, Duration, Integer, OneOf, Path, Ports, Table, Tables, Text, TextOrTexts, Texts};
use Need::{Default, Optional, Required};

const MODES: Kind = OneOf(&["enforce", "observe"]);
const MOST: u64 = i64::MAX.unsigned_abs();

const fn key(table: &'static str, name: &'static str, kind: Kind, need: Need, about: &'static str) -> Key {
    Key {
        table,
        name,
        kind,
        need,
        about,
    }
}

/// Every key, in the order in which it is shown.
#[rustfmt::skip]
pub(super) const KEYS: &[Key] = &[
    key("", "mode", MODES, Default("\"enforce\""), "Whether refusals refuse, or are only recorded."),
    key("", "policies", Path, Optional, "A directory of policies in place of the shipped ones."),
    key("", "state_dir", Path, Default("\"/var/lib/interdict\""), "Keys, records and pending approvals."),
    key("", "issuer", Tables, Optional, "Issuers of identities (OIDC)."),
    key("", "target", Tables, Optional, "What governed processes may reach, with the real credential."),
    key("", "network", Tables, Optional, "Networks that the kernel decides about, before any policy."),
    key("", "inbound", Table, Optional, "Who may connect to governed processes from outside; whoever is on this host may."),
    key("", "dns", Table, Optional, "Questions for names, beside what policies say."),
    key("", "workload", Tables, Optional, "What `interdict serve` governs; all selectors that are given must match."),
    key("", "kubernetes", Table, Optional, "Where this node's pods are asked for."),
    key("", "audit", Table, Optional, "Records."),
    key("", "approval", Table, Optional, "Approvals."),
    key("", "masking", Table, Optional, "Masking."),
    key("", "limits", Table, Optional, "Bounds on every operation; policies may set narrower ones."),
    key("", "telemetry", Table, Optional, "Health and figures for monitoring."),
    key("", "unix", Table, Optional, "Unix sockets of processes outside the run."),
    key("", "agent", Table, Optional, "The agent itself."),
    key("issuer", "name", Text, Required, "The name in records and policies."),
    key("issuer", "issuer", Text, Required, "The exact `iss` claim, a URL."),
    key("issuer", "audience", Texts, Required, "Accepted `aud` claims; at least one."),
    key("issuer", "jwks_file", Path, Optional, "Its keys in a file, read again when it changes; without it and jwks_url from discovery."),
    key("issuer", "jwks_url", Text, Optional, "Its keys at a URL."),
    key("issuer", "algorithms", Texts, Default("[\"RS256\", \"RS384\", \"RS512\", \"PS256\", \"PS384\", \"PS512\", \"ES256\", \"ES384\", \"EdDSA\"]"), "Accepted signature algorithms."),
    key("issuer", "groups_claim", TextOrTexts, Default("\"groups\""), "The claim that holds groups, or the path to it."),
    key("issuer", "subject_claim", Text, Default("\"sub\""), "The claim that names the subject."),
    key("issuer", "skew", Duration, Default("\"60s\""), "Allowed difference of clocks."),
    key("issuer", "ca_file", Path, Optional, "A CA for the issuer's own TLS, beside the system's roots."),
    key("target", "name", Text, Required, "The name in records and policies."),
    key("target", "protocol", OneOf(&["postgres", "http", "mcp", "llm", "dns", "opaque"]), Required, "What is spoken there."),
    key("target", "addresses", Texts, Required, "Destinations that are this target, host:port."),
    key("target", "environment", Text, Default("\"default\""), "Environment::\"…\" in policies."),
    key("target", "labels", Kind::Map, Optional, "Labels for policies."),
    key("target", "tls", OneOf(&["verify", "disabled"]), Default("\"verify\""), "TLS to the target; \"disabled\" with a credential on loopback only. Opaque targets have none unless written."),
    key("target", "ca_file", Path, Optional, "A CA beside the system's roots."),
    key("target", "server_name", Text, Optional, "The name to verify; the host of the first address unless written."),
    key("target", "tls_min_version", OneOf(&["1.2", "1.3"]), Default("\"1.2\""), "The oldest TLS that the agent speaks to the target (http, mcp, llm)."),
    key("target", "client_cert_file", Path, Optional, "The agent's own certificate, where the target asks for one; with client_key_file."),
    key("target", "client_key_file", Path, Optional, "The key of client_cert_file."),
    key("target", "recording", OneOf(&["metadata", "operations", "full"]), Default("\"operations\""), "How much of each operation is kept."),
    key("target", "recording_limit", Text, Default("\"1 MiB\""), "At recording = \"full\": how much of a request, and of its answer, is kept."),
    key("target", "when_full", OneOf(&["refuse", "metadata"]), Default("\"refuse\""), "What happens when the disk of the log is nearly full."),
    key("target", "mode", MODES, Optional, "In place of the mode above."),
    key("target", "credential", Table, Optional, "The real credential."),
    key("target", "http", Table, Optional, "Bounds of requests and answers (http, mcp, llm)."),
    key("target", "columns", Kind::Map, Optional, "Classes of columns: \"table.column\" = \"class\" (postgres)."),
    key("target", "mcp", Table, Optional, "Tools of an MCP server (mcp)."),
    key("target.mcp", "new_tools", OneOf(&["accept", "hold", "block"]), Default("\"accept\""), "What happens to a tool that was never seen."),
    key("target.mcp", "changed_tools", OneOf(&["flag", "hold", "block"]), Default("\"hold\""), "What happens to a tool that says something else of itself than what was accepted."),
    key("target.credential", "as", OneOf(&["bearer", "basic", "header", "query", "sigv4"]), Optional, "Where the target expects it (http, mcp, llm)."),
    key("target.credential", "name", Text, Optional, "The header's or parameter's name."),
    key("target.credential", "user", Text, Optional, "The real user."),
    key("target.credential", "access_key_id", Text, Optional, "The same as user (sigv4)."),
    key("target.credential", "region", Text, Optional, "The region that is signed for (sigv4)."),
    key("target.credential", "service", Text, Optional, "The service that is signed for (sigv4)."),
    key("target.credential", "session_token_file", Path, Optional, "A file with the session token of the key (sigv4)."),
    key("target.credential", "password_file", Path, Optional, "A file whose first line is the password, read again when it changes."),
    key("target.credential", "secret_file", Path, Optional, "The same as password_file."),
    key("target.credential", "password_env", Text, Optional, "A variable of the agent that holds the password."),
    key("target.credential", "secret_env", Text, Optional, "The same as password_env."),
    key("target.credential", "placeholder", Text, Optional, "A password for clients that insist on SCRAM (postgres)."),
    key("target.http", "max_body", Text, Default("\"16 MiB\""), "The largest request that is judged."),
    key("target.http", "max_answer", Text, Optional, "The largest answer."),
    key("target.http", "max_header", Text, Optional, "The largest head of a request or an answer."),
    key("target.http", "max_streams", Integer(1, 0xffff_ffff), Default("100"), "Streams of one HTTP/2 connection."),
    key("target.http", "uploads", OneOf(&["collect", "stream"]), Default("\"collect\""), "What becomes of requests that are larger than max_body: refused, or judged by their heads and sent on unread."),
    key("target.http", "max_upload", Text, Default("\"10 GiB\""), "The largest request that is sent on unread."),
    key("target.http", "unreadable", OneOf(&["pass", "refuse"]), Default("\"pass\""), "What becomes of answers in formats that no detector reads."),
    key("target.http", "descriptor_set", Path, Optional, "What messages of gRPC mean: a FileDescriptorSet, as protoc --descriptor_set_out --include_imports writes it (http)."),
    key("target.http", "pinned", OneOf(&["block", "pass"]), Default("\"block\""), "What becomes of clients that accept only the target's own certificate."),
    key("network", "prefix", Text, Required, "The network, such as 10.1.0.0/16."),
    key("network", "ports", Ports, Optional, "Ports; any without."),
    key("network", "verdict", OneOf(&["direct", "redirect", "deny"]), Required, "What is done."),
    key("inbound", "allow", Tables, Optional, "Who may; nobody without."),
    key("inbound.allow", "from", Texts, Required, "The networks of the other side, such as 10.0.0.0/8."),
    key("inbound.allow", "ports", Ports, Optional, "Ports of the process; any without."),
    key("dns", "types", Texts, Default("[\"A\", \"AAAA\", \"CNAME\", \"HTTPS\", \"PTR\", \"SRV\", \"SVCB\"]"), "Types of records that may be asked for; also MX, NS, SOA and TXT."),
    key("dns", "max_name", Integer(1, 253), Default("128"), "Longest name."),
    key("dns", "max_label", Integer(1, 63), Default("40"), "Longest part of a name."),
    key("dns", "max_entropy", Integer(0, 800), Default("420"), "Entropy of parts from 20 characters on, in hundredths of a bit a character; 800 is no limit."),
    key("dns", "names_per_domain", Integer(1, 4096), Default("60"), "Different names under any domain of two parts or more, within a minute."),
    key("dns", "per_second", Integer(1, 10_000), Default("100"), "Questions of a run within a second."),
    key("workload", "name", Text, Required, "The name in records."),
    key("workload", "systemd_unit", Text, Optional, "A systemd unit, with * for any text."),
    key("workload", "slice", Text, Optional, "A systemd slice, with all in it."),
    key("workload", "cgroup", Text, Optional, "A path below the cgroup2 mount; * within a component, ** across."),
    key("workload", "uid", Integer(0, 0xffff_ffff), Optional, "A process has this user."),
    key("workload", "executable", Path, Optional, "A process runs this very file."),
    key("workload", "container_label", Text, Optional, "A container with this label or annotation: key or key=value."),
    key("workload", "namespace", Text, Optional, "A pod in this namespace."),
    key("workload", "pod_label", Text, Optional, "A pod with this label: key or key=value."),
    key("workload", "service_account", Text, Optional, "A pod that runs as this service account."),
    key("workload", "identity", Text, Optional, "Whom it acts for: itself under this name; its name unless written."),
    key("workload", "identity_token_file", Path, Optional, "Whom it acts for: a token of an issuer, read again when it changes."),
    key("workload", "identity_pod_token", Text, Optional, "Whom each pod acts for: its own service account, by the token in its projected volume: VOLUME/PATH."),
    key("workload", "mode", MODES, Optional, "In place of the mode above."),
    key("workload", "recording", OneOf(&["metadata", "operations", "full"]), Optional, "At least this much of each operation is kept."),
    key("workload", "dial_from", OneOf(&["host", "workload"]), Default("\"host\""), "The network namespace that targets are dialled in."),
    key("workload", "on_attach", OneOf(&["close", "drain"]), Default("\"close\""), "What becomes of connections older than the guard."),
    key("kubernetes", "api", Text, Required, "The API server, https:// (http:// on loopback)."),
    key("kubernetes", "token_file", Path, Optional, "The agent's own token, read for each request."),
    key("kubernetes", "ca_file", Path, Optional, "The cluster's CA, beside the system's roots."),
    key("kubernetes", "node", Text, Optional, "This node's name; NODE_NAME or the host's unless written."),
    key("kubernetes", "kubelet_dir", Path, Optional, "Where kubelet keeps the volumes of pods; /var/lib/kubelet unless written."),
    key("audit", "dir", Path, Optional, "Where the log lives; STATE_DIR/audit unless written."),
    key("audit", "segment_bytes", Integer(65_536, MOST), Default("67108864"), "A segment is sealed at this size…"),
    key("audit", "segment_age", Duration, Default("\"5m\""), "…or at this age."),
    key("audit", "min_free_bytes", Integer(0, MOST), Default("67108864"), "Below this much free space new operations are refused."),
    key("audit", "clickhouse", Table, Optional, "Where records are streamed."),
    key("audit.clickhouse", "url", Text, Required, "http://host:8123 (on loopback) or https://host:8443."),
    key("audit.clickhouse", "database", Text, Default("\"interdict\""), "The database."),
    key("audit.clickhouse", "user", Text, Default("\"default\""), "The user."),
    key("audit.clickhouse", "password_file", Path, Optional, "A file whose first line is its password."),
    key("audit.clickhouse", "password_env", Text, Optional, "A variable of the agent that holds its password."),
    key("audit.clickhouse", "batch_records", Integer(1, 4_294_967_295), Default("10000"), "Largest batch."),
    key("audit.clickhouse", "batch_age", Duration, Default("\"1s\""), "How long a record waits for its batch."),
    key("audit.clickhouse", "legacy", Bool, Default("false"), "For servers before 20: sent at least once."),
    key("approval", "hold", Duration, Default("\"30s\""), "How long an operation waits for consent before the process gets a ticket."),
    key("approval", "request_ttl", Duration, Default("\"24h\""), "How long a request can be decided."),
    key("approval", "grant_ttl", Duration, Default("\"1h\""), "How long a consent can be used."),
    key("approval", "url", Text, Optional, "Where people approve, for links that clients are shown; {ticket} stands for the ticket."),
    key("masking", "classes", Path, Optional, "A file in place of the shipped classes.toml."),
    key("masking", "overrides", Kind::Map, Optional, "Strategy by class in place of the file's."),
    key("limits", "max_rows", Integer(0, MOST), Optional, "Rows that a statement may return."),
    key("limits", "max_time", Duration, Optional, "How long a statement may run."),
    key("telemetry", "listen", Text, Optional, "Where /healthz, /readyz and /metrics are served: 127.0.0.1:9464, or unix:PATH."),
    key("telemetry", "expose", Bool, Default("false"), "Whether other addresses than loopback's are meant."),
    key("telemetry", "traces", Table, Optional, "Where spans of operations are sent (OTLP over HTTP, in JSON)."),
    key("telemetry.traces", "endpoint", Text, Required, "The collector: https://host:4318 (http:// on loopback); without a path /v1/traces is put behind it."),
    key("telemetry.traces", "headers_file", Path, Optional, "A file with fields for the collector, Name: value each line, read for each batch."),
    key("telemetry.traces", "ca_file", Path, Optional, "A CA beside the system's roots."),
    key("telemetry.traces", "sample_percent", Integer(0, 100), Default("100"), "Of a hundred sessions, so many are traced; what stands in a trace of its process's is, where that is sampled."),
    key("unix", "allow", Texts, Default("[]"), "Sockets that may be used: paths as their owners bound them, or @name for abstract ones."),
    key("unix", "hide", Texts, Default("[]"), "Paths that a command does not see, besides those of the usual daemons; * is any one part."),
    key("agent", "user", Text, Optional, "Whom the proxy runs as: a name or a number; interdict, or a number that nobody has."),
];

impl Key {
    /// The name of the table that this key opens.
    pub(super) fn opened(&self) -> String {
        if self.table.is_empty() {
            self.name.to_owned()
        } else {
            format!("{}.{}", self.table, self.name)
        }
    }
}

/// The keys of one table.
pub(super) fn keys_of(table: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.table == table)
}

/// The JSON Schema (2020-12) of the file, for editors and other programs: shapes only, `load` knows the rest.
#[must_use]
pub fn schema() -> Value {
    let mut root = object_of("");
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("Configuration of interdict");
    root
}

fn object_of(table: &str) -> Value {
    let properties: Map<String, Value> = keys_of(table)
        .map(|key| (key.name.to_owned(), property(key)))
        .collect();
    let required: Vec<&str> = keys_of(table)
        .filter(|key| key.need == Required)
        .map(|key| key.name)
        .collect();
    let mut object = json!({"type": "object", "additionalProperties": false, "properties": properties});
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    object
}

fn property(key: &Key) -> Value {
    let text = json!({"type": "string"});
    let mut made = match key.kind {
        Text | Path => text,
        Duration => json!({"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$"}),
        Integer(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
        Bool => json!({"type": "boolean"}),
        OneOf(words) => json!({"enum": words}),
        Texts => json!({"type": "array", "items": text}),
        TextOrTexts => json!({"anyOf": [text, {"type": "array", "items": text}]}),
        Ports => json!({"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 65535}}),
        Kind::Map => json!({"type": "object", "additionalProperties": text}),
        Table => object_of(&key.opened()),
        Tables => json!({"type": "array", "items": object_of(&key.opened())}),
    };
    made["description"] = json!(key.about);
    if let Default(text) = key.need
        && let Some(value) = toml_value(text)
    {
        made["default"] = value;
    }
    made
}

/// A default as JSON.
fn toml_value(text: &str) -> Option<Value> {
    let table: toml::Table = toml::from_str(&format!("v = {text}")).ok()?;
    serde_json::to_value(table.get("v")?).ok()
}
