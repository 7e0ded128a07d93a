//! A proxy that was taken over asks the guard for everything: it gets what the configuration names, and no more.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;

use super::answers::{Tables, answer};
use super::link::{Answer, Ask, Link, LinkError};
use super::server::Allowed;

/// Asks all of `asks` a guard that allows what `config` names; what it answered, with the content of files.
fn ask(config: &str, dir: &Path, asks: &[Ask]) -> Vec<(Answer, Option<String>)> {
    let config = crate::config::parse(config, &dir.join("interdict.toml")).expect("valid");
    let allowed = Allowed::of(&config, Some(&dir.join("token")));
    let (guard, proxy) = Link::pair().expect("sockets");
    let serving = std::thread::spawn(move || answer(&guard, &Tables::allowing(allowed)));
    let mut answers = Vec::new();
    for one in asks {
        proxy.send(one, &[], true).expect("sent");
        let (answer, files) = proxy.receive::<Answer>(1).expect("answered");
        let content = files.into_iter().next().map(|file| {
            let mut text = String::new();
            let read = fs::File::from(file).read_to_string(&mut text);
            read.map_or_else(|_directory| "a directory".into(), |_length| text)
        });
        answers.push((answer, content));
    }
    drop(proxy);
    assert!(matches!(serving.join().expect("ended"), LinkError::Ended));
    answers
}

fn open(path: &Path) -> Ask {
    Ask::Open {
        path: path.to_str().expect("UTF-8").into(),
    }
}

#[test]
fn only_what_the_configuration_names_is_opened() {
    let dir = tempfile::tempdir().expect("temp dir");
    let at = |name: &str| dir.path().join(name);
    let config = "state_dir = \"state\"\npolicies = \"policies\"\n[[target]]\nname = \"t\"\nprotocol = \"postgres\"\n\
                  addresses = [\"h\"]\nca_file = \"ca.pem\"\n[target.credential]\nuser = \"u\"\npassword_file = \"password\"\n\
                  [[target]]\nname = \"o\"\nprotocol = \"postgres\"\naddresses = [\"i\"]\n[target.credential]\nuser = \"u\"\n\
                  password_file = \"state/password\"\n\
                  [[target]]\nname = \"g\"\nprotocol = \"http\"\naddresses = [\"j\"]\n[target.http]\ndescriptor_set = \"g.pb\"\n";
    fs::create_dir_all(at("policies/below")).expect("made");
    fs::create_dir_all(at("state")).expect("made");
    for name in [
        "password",
        "ca.pem",
        "g.pb",
        "token",
        "other",
        "policies/a.cedar",
        "policies/b.txt",
    ] {
        fs::write(at(name), name).expect("written");
    }
    fs::write(at("policies/below/c.cedar"), "").expect("written");
    // A proxy owns its state directory: what it puts there is not followed by root.
    symlink(at("other"), at("state/password")).expect("linked");
    rustix::fs::mkfifoat(rustix::fs::CWD, at("policies/f.cedar"), rustix::fs::Mode::RUSR).expect("made");
    for name in ["password", "ca.pem", "g.pb", "token", "policies/a.cedar"] {
        let answers = ask(config, dir.path(), &[open(&at(name))]);
        assert_eq!(answers, [(Answer::Opened {}, Some(name.to_owned()))]);
    }
    let answers = ask(config, dir.path(), &[open(&at("policies"))]);
    assert_eq!(answers, [(Answer::Opened {}, Some("a directory".into()))]);
    let refused = [
        Path::new("/etc/shadow").to_owned(),
        Path::new("/proc/1/mem").to_owned(),
        at("other"),
        at("state/password"),
        at("policies/b.txt"),
        at("policies/f.cedar"),
        at("policies/below/c.cedar"),
        at("policies/../policies/a.cedar"),
        at("policies/../other"),
        at("./password"),
        Path::new("").to_owned(),
    ];
    let asks: Vec<Ask> = refused.iter().map(|path| open(path)).collect();
    for (path, answer) in refused.iter().zip(ask(config, dir.path(), &asks)) {
        let denied = (Answer::NotOpened { errno: libc::EACCES }, None);
        // A spelling that the path library takes for the same is the same file.
        let same = (Answer::Opened {}, Some("password".to_owned()));
        assert!(
            answer == denied
                || (path.ends_with("password") && !path.starts_with(at("state")) && answer == same),
            "{}: {answer:?}",
            path.display()
        );
    }
}

#[test]
fn before_the_hooks_nothing_of_the_kernel_is_told() {
    let dir = tempfile::tempdir().expect("temp dir");
    let address = "127.0.0.1:1".parse().expect("address");
    let asks = [
        Ask::Flow {
            workload: 0,
            peer: address,
        },
        Ask::Counters { workload: 0 },
        Ask::Dial { netns: 1, address },
        Ask::Targets {
            workload: 0,
            addresses: vec![address],
            more: false,
        },
    ];
    let answers = ask("state_dir = \"state\"\n", dir.path(), &asks);
    assert_eq!(answers[0], (Answer::NoFlow {}, None));
    assert_eq!(answers[2], (Answer::NotOpened { errno: libc::EACCES }, None));
    for (answer, _) in [&answers[1], &answers[3]] {
        assert!(matches!(answer, Answer::Refused { .. }), "{answer:?}");
    }
}

/// What the link adds to each accepted connection, with a socket beside the question; printed only.
#[test]
fn how_long_a_question_takes() {
    let (guard, proxy) = Link::pair().expect("sockets");
    let serving = std::thread::spawn(move || answer(&guard, &Tables::allowing(Allowed::default())));
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("socket");
    let ask = Ask::Flow {
        workload: 0,
        peer: "127.0.0.1:1".parse().expect("address"),
    };
    let times = 2000u32;
    let began = std::time::Instant::now();
    for _ in 0..times {
        proxy.send(&ask, &[socket.as_fd()], true).expect("sent");
        let _answer = proxy.receive::<Answer>(1).expect("answered");
    }
    println!("a question and its answer: {:?}", began.elapsed() / times);
    drop(proxy);
    assert!(matches!(serving.join().expect("ended"), LinkError::Ended));
}

#[test]
fn what_is_no_question_ends_the_link() {
    let file = tempfile::tempfile().expect("file");
    for said in [
        &b"{\"detach\":{}}"[..],
        b"\0",
        b"{\"counters\":{\"workload\":0}} ",
    ] {
        let (guard, proxy) = Link::pair().expect("sockets");
        let mut raw = std::os::unix::net::UnixStream::from(OwnedFd::from(proxy));
        raw.write_all(said).expect("sent");
        raw.shutdown(std::net::Shutdown::Write).expect("shut");
        let ended = answer(&guard, &Tables::allowing(Allowed::default()));
        let fine = said.ends_with(b" ");
        assert_eq!(matches!(ended, LinkError::Ended), fine, "{ended:?}");
    }
    let (guard, proxy) = Link::pair().expect("sockets");
    let two = [file.as_fd(), file.as_fd()];
    proxy
        .send(&Ask::Counters { workload: 0 }, &two, true)
        .expect("sent");
    let ended = answer(&guard, &Tables::allowing(Allowed::default()));
    assert!(matches!(ended, LinkError::NotAMessage), "{ended:?}");
}
