//! Messages between guard and proxy: every byte, every cut, every change.

use std::io::Write as _;
use std::os::fd::AsFd as _;

use super::link::{Answer, Ask, Link, LinkError, MAX_MESSAGE, Said, Told, WireDenial, parse};
use crate::guard::{Denial, Flow};
use crate::model::{Executable, NetnsCookie, OriginalDst, Process};

fn process() -> Process {
    Process {
        tgid: 7,
        start_ns: 1,
        uid: 1000,
        gid: 1001,
        exe: Executable {
            device: 2,
            inode: 3,
            path: "/usr/bin/\u{fffd}".into(),
        },
        cgroup: 4,
        netns: NetnsCookie(5),
        comm: "a\n\"b".into(),
    }
}

fn denial() -> Denial {
    Denial {
        hook: "seccomp",
        process: process(),
        original: Some(OriginalDst("[2001:db8::7]:53".parse().expect("address"))),
        reason: "why".into(),
    }
}

fn told() -> Vec<Told> {
    vec![
        Told::Started {
            attached: vec!["on_connect4".into()],
            netns: 5,
            listeners: vec!["127.0.0.1:9".parse().expect("address")],
            names: vec!["[::1]:10".parse().expect("address")],
        },
        Told::Denied {
            denial: Box::new(denial().into()),
        },
        Told::Lost { lost: u64::MAX },
        Told::Reload {},
        Told::Ended { status: -1 },
    ]
}

fn asked() -> Vec<Ask> {
    let address = "[::1]:9".parse().expect("address");
    vec![
        Ask::Flow {
            workload: 0,
            peer: address,
        },
        Ask::Datagram {
            workload: 1,
            peer: address,
            id: 7,
        },
        Ask::Open {
            path: "/etc/interdict/p".into(),
        },
        Ask::Counters { workload: u32::MAX },
        Ask::Dial { netns: 5, address },
        Ask::Targets {
            workload: 0,
            addresses: vec![address],
            more: true,
        },
    ]
}

fn answers() -> Vec<Answer> {
    let flow = Flow {
        original: OriginalDst("10.0.0.7:5432".parse().expect("address")),
        process: process(),
    };
    vec![
        flow.into(),
        Answer::NoFlow {},
        Answer::NotOpened { errno: 13 },
        Answer::Dialled {},
        Answer::Done {},
    ]
}

#[test]
fn what_is_said_arrives() {
    let (one, other) = Link::pair().expect("sockets");
    for message in told() {
        one.send(&message, &[], true).expect("sent");
        let (heard, beside) = other.receive::<Told>(0).expect("received");
        assert_eq!((heard, beside.len()), (message, 0));
    }
    assert_eq!(Denial::from(WireDenial::from(denial())), denial());
    let file = tempfile::tempfile().expect("file");
    one.send(&Ask::Counters { workload: 0 }, &[file.as_fd()], true)
        .expect("sent");
    let (_, beside) = other.receive::<Ask>(1).expect("received");
    assert_eq!(beside.len(), 1);
    drop(one);
    assert!(matches!(other.receive::<Ask>(1), Err(LinkError::Ended)));
}

/// No part of a message is one, and no byte of it can be another kind of byte without it being refused or understood.
#[test]
fn every_cut_and_every_byte() {
    fn all<M>(messages: &[M])
    where
        M: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        for message in messages {
            let bytes = serde_json::to_vec(message).expect("written");
            assert_eq!(parse::<M>(&bytes).expect("read"), *message);
            for end in 0..bytes.len() {
                assert!(parse::<M>(&bytes[..end]).is_err(), "{end} bytes of {message:?}");
            }
            for at in 0..bytes.len() {
                for byte in [0, b'"', b'}', b'{', b',', b'-', b'9', b'a', 0x80, 0xff] {
                    let mut changed = bytes.clone();
                    changed[at] = byte;
                    if let Ok(read) = parse::<M>(&changed) {
                        let written = serde_json::to_vec(&read).expect("written");
                        assert_eq!(parse::<M>(&written).expect("read"), read);
                    }
                }
            }
            let mut longer = bytes.clone();
            longer.extend_from_slice(b"{}");
            assert!(parse::<M>(&longer).is_err());
        }
    }
    all(&told());
    all(&asked());
    all(&answers());
    all(&[Said::Alive {}, Said::Ready {}, Said::Done {}]);
}

#[test]
fn unknown_is_refused() {
    for text in [
        r#"{"flow":{"workload":0,"peer":"127.0.0.1:1","netns":1}}"#,
        r#"{"flow":{"workload":0,"peer":"localhost:1"}}"#,
        r#"{"flow":{"peer":"127.0.0.1:1"}}"#,
        r#"{"flow":{"workload":0,"peer":"127.0.0.1:1","peer":"127.0.0.1:2"}}"#,
        r#"{"detach":{}}"#,
        r#""counters""#,
        r#"{"counters":{"workload":0},"open":{"path":"/"}}"#,
        "{}",
        "[]",
        "",
    ] {
        assert!(parse::<Ask>(text.as_bytes()).is_err(), "{text}");
    }
    let long = format!(r#"{{"open":{{"path":"{}"}}}}"#, "x".repeat(MAX_MESSAGE));
    assert!(parse::<Ask>(long.as_bytes()).is_err());
}

#[test]
fn what_is_too_long_or_carries_too_much_ends_the_link() {
    let (one, other) = Link::pair().expect("sockets");
    let mut raw = std::os::unix::net::UnixStream::from(std::os::fd::OwnedFd::from(one));
    raw.write_all(&vec![b' '; MAX_MESSAGE + 2]).expect("sent");
    assert!(matches!(other.receive::<Ask>(0), Err(LinkError::NotAMessage)));
    let (one, other) = Link::pair().expect("sockets");
    let file = tempfile::tempfile().expect("file");
    let many = [file.as_fd(); 3];
    one.send(&Ask::Counters { workload: 0 }, &many, true)
        .expect("sent");
    assert!(matches!(other.receive::<Ask>(1), Err(LinkError::NotAMessage)));
}
