//! Pods under `interdict serve`: cgroups as kubelet names them, made by the test, and a stand-in for the Kubernetes API that
//! plays streams written after the API's documentation. No cluster is involved.
#![expect(clippy::expect_used, reason = "in a test, that is the failure")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, sync_channel};

use interdict_tests::service::{Cgroups, Manager};
use interdict_tests::world::{kinds, world};
use rustix::process::Signal;

const ONE: &str = "7b1f2a3c-0d4e-4f56-8a9b-0c1d2e3f4a51";
const TWO: &str = "7b1f2a3c-0d4e-4f56-8a9b-0c1d2e3f4a52";
const WEB: &str = "7b1f2a3c-0d4e-4f56-8a9b-0c1d2e3f4a53";
const GONE: &str = "7b1f2a3c-0d4e-4f56-8a9b-0c1d2e3f4a54";
// Of the other test: an agent finds pods wherever their cgroups are.
const OWN: &str = "8c1f2a3c-0d4e-4f56-8a9b-0c1d2e3f4a51";
const OTHER: &str = "8c1f2a3c-0d4e-4f56-8a9b-0c1d2e3f4a52";
const NONE: &str = "8c1f2a3c-0d4e-4f56-8a9b-0c1d2e3f4a53";

/// A pod as the API shows it, with parts that do not matter.
fn pod(uid: &str, app: &str, version: u32) -> String {
    format!(
        r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"name":"{app}-x7k2m","namespace":"tools","uid":"{uid}","resourceVersion":"{version}","labels":{{"app":"{app}","pod-template-hash":"5d9"}},"managedFields":[{{"manager":"kubelet"}}]}},"spec":{{"serviceAccountName":"agent","nodeName":"node-1","containers":[{{"name":"c","image":"i"}}]}},"status":{{"phase":"Running"}}}}"#
    )
}

fn event(kind: &str, object: &str) -> String {
    format!(r#"{{"type":"{kind}","object":{object}}}"#)
}

/// A request that somebody waits for an answer to.
struct Asked {
    path: String,
    token: String,
    stream: TcpStream,
}

impl Asked {
    fn list(mut self, items: &[String], version: u32, more: &str) {
        let body = format!(
            r#"{{"kind":"PodList","apiVersion":"v1","metadata":{{"resourceVersion":"{version}","continue":"{more}"}},"items":[{}]}}"#,
            items.join(",")
        );
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
        write!(self.stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).expect("answered");
    }

    /// Begins a watch; each event is a chunk, cut in two.
    fn watch(mut self) -> impl FnMut(&str) {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
        self.stream.write_all(head.as_bytes()).expect("answered");
        move |event| {
            let line = format!("{event}\n");
            let (one, two) = line.as_bytes().split_at(line.len() / 2);
            for part in [one, two] {
                write!(self.stream, "{:x}\r\n", part.len()).expect("said");
                self.stream.write_all(part).expect("said");
                self.stream.write_all(b"\r\n").expect("said");
                self.stream.flush().expect("said");
            }
        }
    }

    fn fail(mut self) {
        let answer = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        self.stream.write_all(answer.as_bytes()).expect("answered");
    }
}

/// The stand-in: what it is asked comes out here.
fn api() -> (u16, Receiver<Asked>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listener");
    let port = listener.local_addr().expect("address").port();
    let (sender, asked) = sync_channel(64);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(stream.try_clone().expect("cloned"))
                .lines()
                .map_while(Result::ok);
            let first = lines.next().unwrap_or_default();
            let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
            let mut token = String::new();
            for line in lines.by_ref().take_while(|line| !line.is_empty()) {
                if let Some(value) = line.strip_prefix("authorization: Bearer ") {
                    value.clone_into(&mut token);
                }
            }
            if sender.send(Asked { path, token, stream }).is_err() {
                return;
            }
        }
    });
    (port, asked)
}

fn next(asked: &Receiver<Asked>) -> Asked {
    asked
        .recv_timeout(std::time::Duration::from_secs(30))
        .expect("a request")
}

fn cgroup(uid: &str) -> String {
    let uid = uid.replace('-', "_");
    let container = "0123456789abcdef".repeat(4);
    format!(
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice/cri-containerd-{container}.scope"
    )
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
}

#[test]
fn pods_are_recognised_as_the_api_tells_of_them() {
    let (port, asked) = api();
    let more = format!(
        "[kubernetes]\napi = \"http://127.0.0.1:{port}\"\ntoken_file = \"node-token\"\nnode = \"node-1\"\n\
         [[workload]]\nname = \"mcp\"\nnamespace = \"tools\"\nservice_account = \"agent\"\npod_label = \"app=mcp\"\n"
    );
    let cgroups = Cgroups::make().expect("cgroups");
    let Some(w) = world("pods_are_recognised", &more) else {
        return;
    };
    let token = w.agent.config().with_file_name("node-token");
    write(&token, "first\n");
    let mut manager = Manager::new(&w.agent.config()).expect("manager");
    for uid in [ONE, WEB] {
        cgroups.add(&cgroup(uid)).expect("made");
    }
    manager.start().expect("ready");
    let governed = |uid: &str| format!("{}\" processes=", cgroup(uid).rsplit_once('/').expect("a pod").0);

    // Listed in two pages, the second with the token that is in the file by then.
    let first = next(&asked);
    assert!(
        first.path.contains("fieldSelector=spec.nodeName%3Dnode-1"),
        "{}",
        first.path
    );
    assert_eq!(first.token, "first");
    write(&token, "second\n");
    first.list(&[pod(WEB, "web", 1)], 5, "a b");
    let second = next(&asked);
    assert!(second.path.contains("continue=a%20b"), "{}", second.path);
    assert_eq!(second.token, "second");
    second.list(&[pod(ONE, "mcp", 2), pod(GONE, "mcp", 2)], 10, "");
    manager.wait_for_log(&governed(ONE)).expect("governed");

    // Watched from there; the pod is told of before its cgroup is there.
    let watch = next(&asked);
    assert!(
        watch.path.contains("watch=1") && watch.path.contains("resourceVersion=10"),
        "{}",
        watch.path
    );
    let mut say = watch.watch();
    say(&event("ADDED", &pod(TWO, "mcp", 11)));
    say(&event(
        "BOOKMARK",
        r#"{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"20"}}"#,
    ));
    cgroups.add(&cgroup(TWO)).expect("made");
    manager.wait_for_log(&governed(TWO)).expect("governed");
    // The connection ends: on from the bookmark.
    drop(say);
    let watch = next(&asked);
    assert!(watch.path.contains("resourceVersion=20"), "{}", watch.path);
    // An error of the server is waited out, from the same place.
    watch.fail();
    let watch = next(&asked);
    assert!(watch.path.contains("resourceVersion=20"), "{}", watch.path);
    // Too old: listed again. A label that comes later counts.
    let mut say = watch.watch();
    say(&event(
        "ERROR",
        r#"{"kind":"Status","code":410,"message":"too old resource version: 20 (99)","reason":"Expired"}"#,
    ));
    let again = next(&asked);
    assert!(again.path.contains("limit="), "{}", again.path);
    again.list(
        &[pod(ONE, "mcp", 2), pod(TWO, "mcp", 11), pod(WEB, "web", 1)],
        100,
        "",
    );
    let mut say = next(&asked).watch();
    assert!(!manager.log().contains(&governed(WEB)), "{}", manager.log());
    say(&event("MODIFIED", &pod(WEB, "mcp", 101)));
    manager.wait_for_log(&governed(WEB)).expect("governed");

    // And what is governed is refused what its workload is not permitted.
    let mut client = cgroups.command(
        &cgroup(ONE),
        &["psql", "-X", "-At", "-c", "DELETE FROM customers"],
    );
    let bundle = w.agent.state().join("ca/bundle.pem");
    client
        .envs([
            ("PGHOST", "localhost"),
            ("PGUSER", "x"),
            ("PGPASSWORD", "x"),
            ("PGDATABASE", "shop"),
        ])
        .env("PGPORT", w.database.port.to_string())
        .env("PGSSLROOTCERT", bundle);
    let said = said(&mut client);
    assert!(said.contains("Interdict denied"), "{said}");
    manager.signal(Signal::TERM).expect("sent");
    assert_eq!(manager.wait().expect("ended"), 0);
    w.agent.verify().expect("verified");
    let records = w.agent.records().expect("records");
    assert_eq!(kinds(&records, "workload.governed").count(), 3);
}

fn said(client: &mut Command) -> String {
    let out = client.output().expect("ran");
    String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()
}

/// Kubelet replaces a projected volume's files by pointing `..data` at a new directory.
fn project(kubelet: &Path, uid: &str, token: &str) {
    let volume = kubelet.join(format!("pods/{uid}/volumes/kubernetes.io~projected/interdict"));
    let count = std::fs::read_dir(&volume).map_or(0, Iterator::count);
    let data = volume.join(format!("..{count}"));
    std::fs::create_dir_all(&data).expect("made");
    write(&data.join("token"), token);
    let next = volume.join("..data_tmp");
    std::os::unix::fs::symlink(data.file_name().expect("a name"), &next).expect("linked");
    std::fs::rename(&next, volume.join("..data")).expect("replaced");
    let _there_already = std::os::unix::fs::symlink("..data/token", volume.join("token"));
}

/// Each pod acts as its own service account, by a token that its issuer has signed for that very pod; one that is another pod's
/// vouches for nobody, and that is recorded.
#[test]
fn pods_act_as_their_own_service_accounts() {
    let (port, asked) = api();
    let kubelet = tempfile::tempdir().expect("temp dir");
    let more = format!(
        "[kubernetes]\napi = \"http://127.0.0.1:{port}\"\nnode = \"node-1\"\nkubelet_dir = \"{}\"\n\
         [[workload]]\nname = \"mcp\"\nnamespace = \"tools\"\nidentity_pod_token = \"interdict/token\"\n",
        kubelet.path().display()
    );
    let cgroups = Cgroups::make().expect("cgroups");
    let Some(w) = world("pods_act_as_their_own", &more) else {
        return;
    };
    let token = |uid: &str, name: &str| w.issuer.pod_token("agent", ("tools", name, uid), 600);
    let own = token(OWN, "mcp-x7k2m");
    project(kubelet.path(), OWN, &own);
    // A token that another pod has: good, and not this one's.
    project(kubelet.path(), OTHER, &own);
    for uid in [OWN, OTHER, NONE] {
        cgroups.add(&cgroup(uid)).expect("made");
    }
    let mut manager = Manager::new(&w.agent.config()).expect("manager");
    manager.start().expect("ready");
    next(&asked).list(
        &[pod(OWN, "mcp", 1), pod(OTHER, "tool", 2), pod(NONE, "web", 3)],
        5,
        "",
    );
    let _watch = next(&asked).watch();
    for uid in [OWN, OTHER, NONE] {
        let path = cgroup(uid);
        let governed = format!("{}\" processes=", path.rsplit_once('/').expect("a pod").0);
        manager.wait_for_log(&governed).expect("governed");
    }
    manager.wait_for_log("a new token is in use").expect("accepted");
    manager
        .wait_for_log("the new token is not accepted")
        .expect("refused");

    let bundle = w.agent.state().join("ca/bundle.pem");
    let ask = |uid: &str| {
        let mut client = cgroups.command(&cgroup(uid), &["psql", "-X", "-At", "-c", "TABLE orders"]);
        client
            .envs([
                ("PGHOST", "localhost"),
                ("PGUSER", "x"),
                ("PGPASSWORD", "x"),
                ("PGDATABASE", "shop"),
            ])
            .env("PGPORT", w.database.port.to_string())
            .env("PGSSLROOTCERT", &bundle);
        said(&mut client)
    };
    let mine = ask(OWN);
    assert!(!mine.contains("vouches for"), "{mine}");
    let others = ask(OTHER);
    assert!(
        others.contains("No token vouches for anybody here")
            && others.contains("is that of pod tools/mcp-x7k2m"),
        "{others}"
    );
    let none = ask(NONE);
    assert!(
        none.contains("pod tools/web-x7k2m has no token in interdict/token"),
        "{none}"
    );

    // Kubelet replaces the token: read again, and then it is the pod's own.
    project(kubelet.path(), OTHER, &token(OTHER, "tool-x7k2m"));
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut again = ask(OTHER);
    while again.contains("vouches for") && std::time::Instant::now() < until {
        std::thread::sleep(std::time::Duration::from_millis(200));
        again = ask(OTHER);
    }
    assert!(!again.contains("vouches for"), "{again}");

    manager.signal(Signal::TERM).expect("sent");
    assert_eq!(manager.wait().expect("ended"), 0);
    w.agent.verify().expect("verified");
    let records = w.agent.records().expect("records");
    let bound: Vec<_> = kinds(&records, "identity.bound")
        .map(|r| r["principal_name"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(bound, ["tools/mcp-x7k2m", "tools/tool-x7k2m"]);
    assert!(kinds(&records, "identity.ended").any(|r| {
        r["reason"]
            .as_str()
            .is_some_and(|why| why.contains("is that of pod"))
    }));
    let session = kinds(&records, "session.opened").next().expect("a session");
    assert_eq!(session["principal"], "corp/system:serviceaccount:tools:agent");
    assert_eq!(session["principal_name"], "tools/mcp-x7k2m");
    let groups = session["groups"].as_array().expect("groups");
    assert!(
        groups.contains(&"system:serviceaccounts:tools".into()),
        "{session}"
    );
}
