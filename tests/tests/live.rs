//! What changes while sessions are open: policies, statements that take too long, the disk of the log.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout};
use std::time::{Duration, Instant};

use interdict_tests::tools::repository;
use interdict_tests::{Agent, Oidc, Postgres, can_govern};
use serde_json::Value;

/// An agent with policies of its own, which start as copies of the shipped ones.
struct World {
    // Declared in the order of dropping: the server before its directory.
    database: Postgres,
    issuer: Oidc,
    agent: Agent,
    alice: PathBuf,
    dora: PathBuf,
    policies: PathBuf,
    dir: tempfile::TempDir,
}

fn world(test: &str, more: &str) -> Option<World> {
    if !can_govern(test) {
        return None;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let policies = dir.path().join("policies");
    std::fs::create_dir(&policies).expect("made");
    for entry in std::fs::read_dir(repository().join("policies")).expect("policies") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "cedar") {
            std::fs::copy(&path, policies.join(path.file_name().expect("a name"))).expect("copied");
        }
    }
    let database = Postgres::start(dir.path()).expect("PostgreSQL");
    let issuer = Oidc::start().expect("issuer");
    let agent = Agent::new(dir.path(), &database, &issuer, more).expect("agent");
    let token = |name: &str, groups: &[&str]| {
        let token = issuer.token(name, groups, 600);
        agent.token(name, &token).expect("token")
    };
    Some(World {
        database,
        alice: token("alice", &["analyst"]),
        dora: token("dora", &["dba"]),
        issuer,
        agent: agent.with_policies(&policies),
        policies,
        dir,
    })
}

impl World {
    fn policy(&self, file: &str, text: &str) {
        // As editors and deployments do it: whole or not at all.
        let draft = self.policies.join("draft");
        std::fs::write(&draft, text).expect("written");
        std::fs::rename(&draft, self.policies.join(file)).expect("renamed");
    }

    fn kinds(&self, kind: &str) -> Vec<Value> {
        // The agent makes its log a moment after it was started.
        let mut records = self.agent.records().unwrap_or_default();
        records.retain(|r| r["kind"] == kind);
        records
    }

    fn wait_for_kind(&self, kind: &str, count: usize) -> Vec<Value> {
        wait_for(kind, || {
            Some(self.kinds(kind)).filter(|found| found.len() >= count)
        })
    }
}

/// A governed psql that is asked one thing after another; errors come back like answers.
struct Psql {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Psql {
    fn start(w: &World, who: &Path) -> Self {
        let command = ["sh", "-c", "exec psql -X -At -q -v VERBOSITY=verbose 2>&1"];
        let mut child = w.agent.start(Some(who), &command).expect("started");
        Self {
            input: child.stdin.take().expect("stdin"),
            output: BufReader::new(child.stdout.take().expect("stdout")),
            child,
        }
    }

    fn ask(&mut self, sql: &str) -> String {
        writeln!(self.input, "{sql};\n\\echo ---").expect("asked");
        let mut answer = String::new();
        loop {
            let from = answer.len();
            let read = self.output.read_line(&mut answer).expect("answered");
            assert_ne!(read, 0, "psql ended: {answer}");
            if answer.get(from..) == Some("---\n") {
                answer.truncate(from);
                return answer.trim().to_owned();
            }
        }
    }

    fn end(mut self) {
        drop(self.input);
        assert!(self.child.wait().expect("ended").success());
    }
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

const NO_COUNTING: &str = "@id(\"closed\") @reason(\"Closed for today.\")\n\
    forbid (principal, action == Action::\"sql.select\", resource);\n";

#[test]
fn changed_policies_are_in_force_in_open_sessions_and_wrong_ones_are_not() {
    let Some(w) = world("changed_policies", "") else {
        return;
    };
    let mut psql = Psql::start(&w, &w.alice);
    assert_eq!(psql.ask("SELECT 1"), "1");

    w.policy("90-closed.cedar", NO_COUNTING);
    let first = w.wait_for_kind("agent.reloaded", 1);
    // They are recorded before they are in force.
    let refused =
        |psql: &mut Psql| Some(psql.ask("SELECT 1")).filter(|told| told.contains("Closed for today"));
    wait_for("a refusal", || refused(&mut psql));

    w.policy("90-closed.cedar", "permit (principal, action,");
    let wrong = w.wait_for_kind("agent.reload_refused", 1);
    let told = wrong[0]["reason"].as_str().expect("a reason");
    assert!(told.contains("90-closed.cedar:1"), "{told}");
    let refused = psql.ask("SELECT 1");
    assert!(refused.contains("Closed for today"), "{refused}");

    // Asked for, it is done at once, and what runs governed does not see the signal.
    std::fs::remove_file(w.policies.join("90-closed.cedar")).expect("removed");
    let agent = i32::try_from(psql.child.id()).expect("a pid");
    let agent = rustix::process::Pid::from_raw(agent).expect("a pid");
    rustix::process::kill_process(agent, rustix::process::Signal::HUP).expect("sent");
    let second = w.wait_for_kind("agent.reloaded", 2);
    wait_for("an answer", || (psql.ask("SELECT 1") == "1").then_some(()));
    psql.end();

    // Every decision names the set that made it, and every set says which one it came after.
    let started = w.kinds("agent.started");
    let digest = |r: &Value| r["bundle"].as_str().expect("a digest").to_owned();
    let (old, new) = (digest(&started[0]), digest(&first[0]));
    assert_eq!(first[0]["detail"], format!("policies: from {old} to {new}"));
    assert_eq!(second[1]["detail"], format!("policies: from {new} to {old}"));
    assert_eq!(digest(&wrong[0]), new);
    let mut selects: Vec<(String, String)> = w
        .kinds("operation")
        .iter()
        .filter(|r| r["actions"][0] == "sql.select")
        .map(|r| (r["verdict"].as_str().unwrap_or_default().to_owned(), digest(r)))
        .collect();
    // Asked again until they are in force.
    selects.dedup();
    let expected = [("allowed", &old), ("refused", &new), ("allowed", &old)];
    let expected = expected.map(|(verdict, bundle)| (verdict.to_owned(), bundle.clone()));
    assert_eq!(selects, expected);

    // The session is found again by what happened in it.
    let dir = w.agent.state().join("audit").display().to_string();
    let listed = |more: &[&str]| {
        let words = ["sessions", "list", "--json", "--dir", &dir, "--since", "1h"];
        let seen = w.agent.interdict(&[&words, more].concat()).expect("listed");
        assert_eq!(seen.status, 0, "{}", seen.err);
        seen.out
    };
    let found = listed(&[
        "--principal",
        "alice",
        "--target",
        "shop",
        "--decision",
        "refused",
    ]);
    let session: Value = serde_json::from_str(found.trim()).expect("one session");
    assert_eq!(
        (&session["refused"], &session["ended"]),
        (&2.into(), &true.into())
    );
    assert_eq!(listed(&["--decision", "held"]), "");
    let id = session["session"].as_str().expect("an id");
    let shown = w.agent.interdict(&["sessions", "show", id, "--dir", &dir]);
    let shown = shown.expect("shown").out;
    assert!(
        shown.contains("session.opened") && shown.contains("Closed for today"),
        "{shown}"
    );
    w.agent.verify().expect("verified");
}

#[test]
fn consent_to_what_was_forbidden_meanwhile_is_worth_nothing() {
    let Some(w) = world("consent_meanwhile", "[approval]\nhold = \"60s\"\n") else {
        return;
    };
    let update = "UPDATE orders SET total = 0";
    let held = w
        .agent
        .start(Some(&w.alice), &["psql", "-X", "-At", "-c", update])
        .expect("started");
    let asked = w.wait_for_kind("approval.requested", 1);
    let ticket = asked[0]["ticket"].as_str().expect("a ticket");
    let never = "@id(\"never\") @reason(\"Frozen.\")\nforbid (principal, action in Action::\"sql.write\", resource);\n";
    w.policy("90-frozen.cedar", never);
    w.wait_for_kind("agent.reloaded", 1);
    let dora = w.dora.display().to_string();
    let approved = w
        .agent
        .interdict(&["approvals", "approve", ticket, "--token-file", &dora])
        .expect("asked");
    assert_eq!(approved.status, 0, "{}", approved.err);
    let out = held.wait_with_output().expect("ended");
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && told.contains("Frozen."), "{told}");
    let rest = w
        .database
        .direct("shop", "SELECT count(*) FROM orders WHERE total = 0");
    assert_eq!(rest.expect("direct"), "0");
}

#[test]
fn consent_is_worth_nothing_once_the_token_has_ended() {
    let Some(w) = world("consent_too_late", "[approval]\nhold = \"60s\"\n") else {
        return;
    };
    let config = std::fs::read_to_string(w.agent.config()).expect("config");
    let exact = config.replace(
        "audience = [\"interdict\"]",
        "audience = [\"interdict\"]\nskew = \"0s\"",
    );
    std::fs::write(w.agent.config(), exact).expect("written");
    let short = w.issuer.token("alice", &["analyst"], 8);
    let short = w.agent.token("short", &short).expect("token");
    let update = "UPDATE orders SET total = 0";
    let held = w
        .agent
        .start(Some(&short), &["psql", "-X", "-At", "-c", update])
        .expect("started");
    let asked = w.wait_for_kind("approval.requested", 1);
    let ticket = asked[0]["ticket"].as_str().expect("a ticket");
    w.wait_for_kind("identity.ended", 1);
    let dora = w.dora.display().to_string();
    let approved = w
        .agent
        .interdict(&["approvals", "approve", ticket, "--token-file", &dora])
        .expect("asked");
    assert_eq!(approved.status, 0, "{}", approved.err);
    let out = held.wait_with_output().expect("ended");
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && told.contains("ended at"), "{told}");
    let rest = w
        .database
        .direct("shop", "SELECT count(*) FROM orders WHERE total = 0");
    assert_eq!(rest.expect("direct"), "0");
}

#[test]
fn a_session_is_of_one_person() {
    let Some(w) = world("a_session_is_of_one_person", "") else {
        return;
    };
    let token = w.issuer.token("alice", &["analyst"], 600);
    let token = w.agent.token("shared", &token).expect("token");
    let script = "psql -X -At -q 2>&1; exec psql -X -At -c \"SELECT 'new'\" 2>&1";
    let mut both = w
        .agent
        .start(Some(&token), &["sh", "-c", script])
        .expect("started");
    let mut input = both.stdin.take().expect("stdin");
    let mut output = BufReader::new(both.stdout.take().expect("stdout")).lines();
    writeln!(input, "SELECT 'before';").expect("asked");
    assert_eq!(output.next().expect("a line").expect("text"), "before");
    let draft = w.agent.token("draft", &w.issuer.token("bob", &["analyst"], 600));
    std::fs::rename(draft.expect("token"), &token).expect("renamed");
    w.wait_for_kind("identity.bound", 2);
    // It may be closed already when psql ends.
    let _sent = writeln!(input, "SELECT 'after';");
    drop(input);
    let told: Vec<String> = output.map(|line| line.expect("text")).collect();
    assert!(both.wait().expect("ended").success(), "{told:?}");
    let text = told.join("\n");
    assert!(
        text.contains("opened for corp/alice, and the token is corp/bob's now") && !text.contains("\nafter"),
        "{text}"
    );
    assert_eq!(told.last().map(String::as_str), Some("new"), "{text}");
    let records = w.kinds("operation");
    let of = |word: &str| {
        let found = records
            .iter()
            .find(|r| r["text"].as_str().is_some_and(|t| t.contains(word)));
        found.cloned().unwrap_or_default()
    };
    assert_eq!(of("after")["verdict"], "refused");
    assert_eq!(of("new")["principal"], "corp/bob");
}

#[test]
fn what_runs_too_long_is_stopped_at_the_target_and_the_session_goes_on() {
    let Some(w) = world("what_runs_too_long", "[limits]\nmax_time = \"1m\"\n") else {
        return;
    };
    let read = std::fs::read_to_string(w.policies.join("10-read.cedar")).expect("read");
    let bounded = read.replacen(
        "@id(\"read-configured-targets\")",
        "@id(\"read-configured-targets\") @max_time(\"1500ms\")",
        1,
    );
    w.policy("10-read.cedar", &bounded);

    let mut psql = Psql::start(&w, &w.alice);
    let begun = Instant::now();
    let told = psql.ask("SELECT pg_sleep(60)");
    for part in [
        "57014",
        "Interdict stopped this",
        "longer than the 1500ms",
        "Reference:",
    ] {
        assert!(told.contains(part), "{told}");
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    // A statement of several, one in a transaction; what is quick is not touched.
    let told = psql.ask("SELECT 1\\; SELECT pg_sleep(60)");
    assert!(told.contains("Interdict stopped this"), "{told}");
    assert_eq!(psql.ask("SELECT 2"), "2");
    psql.ask("BEGIN");
    let told = psql.ask("SELECT pg_sleep(60)");
    assert!(told.contains("Interdict stopped this"), "{told}");
    assert!(
        psql.ask("SELECT 3").contains("25P02"),
        "the transaction is aborted"
    );
    psql.ask("ROLLBACK");
    assert_eq!(psql.ask("SELECT pg_sleep(0.5)\\; SELECT 4"), "4");
    psql.end();

    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND state = 'active' AND pid <> pg_backend_pid()";
    assert_eq!(w.database.direct("shop", asleep).expect("direct"), "0");
    let stopped = w.kinds("outcome");
    let stopped: Vec<_> = stopped.iter().filter(|r| r["status"] == "cancelled").collect();
    assert!(stopped.len() >= 3, "{stopped:?}");
    assert!(
        stopped.iter().all(|r| r["detail"] == "57014 max_time 1500ms"),
        "{stopped:?}"
    );
}

#[test]
fn drivers_see_the_limit_as_a_cancelled_query() {
    let Some(w) = world("drivers_see_the_limit", "[limits]\nmax_time = \"1s\"\n") else {
        return;
    };
    let script = r#"
import psycopg
with psycopg.connect("sslmode=verify-full", autocommit=True) as c:
    for wait in (30, 31):
        try:
            c.execute("SELECT pg_sleep(%s)", (wait,), prepare=True)
        except psycopg.errors.QueryCanceled as e:
            print("stopped" if "longer than the 1s" in str(e) else e)
    with c.pipeline() as p:
        # Each has its own second, though they are sent at once.
        cursors = [c.execute("SELECT pg_sleep(0.4)") for _ in range(5)]
        p.sync()
        print([len(cur.fetchall()) for cur in cursors])
    print(c.execute("SELECT 7").fetchone())
"#;
    let python = interdict_tests::python().display().to_string();
    let agent = w.agent.as_caller();
    let seen = agent.run(Some(&w.alice), &[&python, "-c", script]).expect("run");
    assert_eq!(
        seen.out, "stopped\nstopped\n[1, 1, 1, 1, 1]\n(7,)\n",
        "{}",
        seen.err
    );
}

#[test]
fn figures_agree_with_the_log() {
    let Some(w) = world("figures_agree", "") else {
        return;
    };
    let mut psql = Psql::start(&w, &w.alice);
    psql.ask("SELECT name, email FROM customers");
    psql.ask("DROP TABLE orders");
    let run = w.wait_for_kind("run.started", 1)[0]["run"].clone();
    let run = run.as_str().expect("an id");
    let figure = |name: &str, labels: &str| {
        let seen = w.agent.interdict(&["metrics"]).expect("run");
        assert_eq!(seen.status, 0, "{}", seen.err);
        let start = format!("{name}{{run=\"{run}\"{labels}}} ");
        let line = seen.out.lines().find_map(|line| line.strip_prefix(&start));
        line.map(str::to_owned)
    };
    // An outcome is recorded a moment after its answer.
    let masked = ",class=\"pii.name\"";
    wait_for("the outcome", || figure("interdict_masked_values_total", masked));
    let count = |kind: &str, field: &str, value: &str| {
        let records = w.kinds(kind);
        Some(records.iter().filter(|r| r[field] == value).count().to_string())
    };
    for (name, label, kind, field, value) in [
        ("operations", "verdict", "operation", "verdict", "allowed"),
        ("operations", "verdict", "operation", "verdict", "refused"),
        ("refusals", "kind", "operation", "refusal", "denied"),
        ("outcomes", "status", "outcome", "status", "completed"),
        ("sessions", "event", "session.opened", "kind", "session.opened"),
    ] {
        let shown = value.rsplit('.').next().unwrap_or_default();
        let got = figure(
            &format!("interdict_{name}_total"),
            &format!(",{label}=\"{shown}\""),
        );
        assert_eq!(got, count(kind, field, value), "{name} {value}");
    }
    assert_eq!(
        figure("interdict_kernel_redirected_total", "").as_deref(),
        Some("1")
    );
    assert_eq!(figure("interdict_audit_failures_total", "").as_deref(), Some("0"));
    let records = w.agent.records().expect("records").len().to_string();
    assert_eq!(figure("interdict_audit_records_total", ""), Some(records));
    psql.end();
}

/// A small disk for the log.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(w: &World) -> Self {
        let place = w.agent.state().join("audit");
        std::fs::create_dir_all(&place).expect("made");
        let mut mount = std::process::Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=6m,mode=700", "tmpfs"])
            .arg(&place);
        assert!(mount.status().expect("mount").success());
        Self(place)
    }

    /// Fills it up to `left` bytes.
    fn fill(&self, left: usize) {
        let mut ballast = std::fs::File::create(self.0.join("ballast")).expect("made");
        let block = vec![0x55; 64 * 1024];
        // Until it is full; the rest is cut off again.
        while ballast.write_all(&block).is_ok() {}
        let length = ballast.metadata().expect("seen").len();
        ballast.set_len(length.saturating_sub(left as u64)).expect("cut");
    }

    fn clear(&self) {
        std::fs::remove_file(self.0.join("ballast")).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _gone = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}

const SMALL: &str = "[audit]\nmin_free_bytes = 2000000\n";

#[test]
fn on_a_full_disk_nothing_is_forwarded_and_nothing_that_is_owed_is_lost() {
    let Some(w) = world("on_a_full_disk", SMALL) else {
        return;
    };
    let disk = SmallDisk::mount(&w);
    let mut psql = Psql::start(&w, &w.alice);
    let add = "INSERT INTO orders VALUES (5000 + (SELECT count(*) FROM orders), 1, 1)";
    assert_eq!(psql.ask(add), "");

    // Nearly full: refused, and the refusal is recorded in what is kept free.
    disk.fill(1_000_000);
    wait_for("a refusal", || psql.ask(add).contains("58030").then_some(()));
    let told = psql.ask(add);
    assert!(
        told.contains("are kept free") && told.contains("Reference:"),
        "{told}"
    );
    let not_recorded = |r: &Value| r["refusal"] == "not_recorded" && r["text"].is_null();
    assert!(w.kinds("operation").iter().any(not_recorded));
    disk.clear();
    wait_for("room", || psql.ask("SELECT 1").eq("1").then_some(()));

    // It fills up while a statement runs: its outcome is owed, and comes when there is room.
    let mut asleep = Psql::start(&w, &w.alice);
    writeln!(asleep.input, "SELECT pg_sleep(3);\n\\echo ---").expect("asked");
    wait_for("the statement", || {
        let asked = w.kinds("operation");
        asked
            .iter()
            .any(|r| r["text"] == "SELECT pg_sleep(3);")
            .then_some(())
    });
    disk.fill(0);
    let mut answer = String::new();
    while answer != "---\n" {
        answer.clear();
        asleep.output.read_line(&mut answer).expect("answered");
    }
    // The last page of the log may have room for one more record.
    wait_for("a refusal", || psql.ask(add).contains("58030").then_some(()));
    disk.clear();
    wait_for("room", || psql.ask(add).is_empty().then_some(()));
    psql.end();
    asleep.end();

    let done = w
        .database
        .direct("shop", "SELECT count(*) FROM orders WHERE id >= 5000");
    let inserts = w.kinds("operation");
    let allowed = |r: &&Value| r["verdict"] == "allowed" && r["actions"].to_string().contains("sql.insert");
    let recorded = inserts.iter().filter(allowed).count();
    assert_eq!(
        done.expect("direct"),
        recorded.to_string(),
        "nothing was forwarded unrecorded"
    );
    let outcomes = w.kinds("outcome");
    for operation in w.kinds("operation").iter().filter(|r| r["verdict"] == "allowed") {
        let ends = outcomes
            .iter()
            .filter(|o| o["operation"] == operation["operation"]);
        let ends: Vec<&Value> = ends.collect();
        assert_eq!(ends.len(), 1, "{operation}");
        assert_eq!(ends[0]["status"], "completed", "{operation}");
    }
    w.agent.verify().expect("verified");
}

#[test]
fn a_target_may_go_on_with_metadata_while_anything_is_free() {
    let Some(w) = world("a_target_may_go_on", SMALL) else {
        return;
    };
    let config = w.dir.path().join("agent/interdict.toml");
    let text = std::fs::read_to_string(&config).expect("read");
    let text = text.replace(
        "environment = \"prod\"",
        "environment = \"prod\"\nwhen_full = \"metadata\"",
    );
    std::fs::write(&config, text).expect("written");
    let disk = SmallDisk::mount(&w);
    let mut psql = Psql::start(&w, &w.alice);
    assert_eq!(psql.ask("SELECT 1"), "1");
    disk.fill(1_000_000);
    let degraded =
        |r: &Value| r["verdict"] == "allowed" && r["detail"] == "metadata only: the disk is nearly full";
    wait_for("a record of metadata only", || {
        assert_eq!(psql.ask("SELECT 2"), "2");
        let found = w.kinds("operation").into_iter().find(degraded)?;
        assert!(
            found["text"].is_null() && found["actions"][0] == "sql.select",
            "{found}"
        );
        Some(())
    });
    disk.fill(0);
    wait_for("a refusal", || {
        psql.ask("SELECT 3").contains("58030").then_some(())
    });
    disk.clear();
    wait_for("a whole record", || {
        psql.ask("SELECT 4");
        let found = w
            .kinds("operation")
            .into_iter()
            .find(|r| r["text"] == "SELECT 4;")?;
        (found["verdict"] == "allowed").then_some(())
    });
    psql.end();
    w.agent.verify().expect("verified");
}
