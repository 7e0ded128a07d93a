//! Words between guard and proxy of the service: what is said arrives, and what is no word is refused.

use super::super::link::{Link, parse};
use super::wire::{Kind, Said, Told};

fn told() -> Vec<Told> {
    let address = "127.0.0.1:9".parse().expect("address");
    vec![
        Told::Begin {
            guard: 1,
            uid: 65_210,
            gid: 65_210,
            file: "/etc/interdict/interdict.toml".into(),
            control: true,
            health: Some(Kind::Unix),
        },
        Told::Change { change: 1 },
        Told::Wrong { reason: "why".into() },
        Told::Started {
            attached: vec!["on_connect4".into()],
        },
        Told::Workload {
            workload: 1,
            name: "mcp".into(),
            attached: Vec::new(),
        },
        Told::Listen {
            workload: 1,
            netns: u64::MAX,
            listeners: vec![address],
            names: vec![address],
        },
        Told::Unlisten {
            workload: 1,
            netns: 2,
        },
        Told::Governed {
            workload: 1,
            cgroup: "a\n\"b".into(),
            processes: 2,
            closed: 3,
        },
        Told::Released {
            workload: 1,
            cgroup: "a".into(),
            reason: "why".into(),
        },
        Told::Pod {
            workload: 1,
            uid: "7b1f2a3c".into(),
            namespace: "tools".into(),
            name: "mcp-1".into(),
            service_account: "agent".into(),
            directory: "/sys/fs/cgroup/x".into(),
            token: "/var/lib/kubelet/x".into(),
        },
        Told::PodGone {
            workload: 1,
            uid: "7b1f2a3c".into(),
        },
        Told::Lost { workload: 1, lost: 2 },
        Told::Dismissed { workload: 1 },
        Told::Ready {},
        Told::Stop { hand_over: true },
    ]
}

fn said() -> Vec<Said> {
    let reason = || "why".to_owned();
    vec![
        Said::Alive {},
        Said::Accepted { change: 0 },
        Said::Refused {
            change: 1,
            reason: reason(),
        },
        Said::Serving { workload: 1 },
        Said::Broken {
            workload: 1,
            reason: reason(),
        },
        Said::Ended { workload: 1 },
        Said::Failed { message: reason() },
        Said::Stopping {},
        Said::Done {},
    ]
}

#[test]
fn what_is_said_arrives_and_no_part_of_it_is_another_word() {
    fn all<M>(messages: &[M])
    where
        M: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        let (one, other) = Link::pair().expect("sockets");
        for message in messages {
            one.send(message, &[], true).expect("sent");
            let (heard, _) = other.receive::<M>(0).expect("received");
            assert_eq!(heard, *message);
            let bytes = serde_json::to_vec(message).expect("written");
            for end in 0..bytes.len() {
                assert!(parse::<M>(&bytes[..end]).is_err(), "{end} bytes of {message:?}");
            }
        }
    }
    all(&told());
    all(&said());
}

#[test]
fn unknown_is_refused() {
    for text in [
        r#"{"serving":{}}"#,
        r#"{"serving":{"workload":-1}}"#,
        r#"{"serving":{"workload":1,"cgroup":"a"}}"#,
        r#"{"detach":{"workload":1}}"#,
        r#"{"alive":{},"done":{}}"#,
        r#""done""#,
    ] {
        assert!(parse::<Said>(text.as_bytes()).is_err(), "{text}");
    }
}
