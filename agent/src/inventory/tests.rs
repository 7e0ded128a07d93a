//! Tools that are new, change, are accepted and change back.

use crate::config::{ChangedTools, NewTools, ToolRules};
use crate::model::Timestamp;

use super::{Inventory, Standing};

const SERVER: (&str, &str) = ("tools", "/mcp");

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

fn rules(new: NewTools, changed: ChangedTools) -> ToolRules {
    ToolRules { new, changed }
}

fn accept(inventory: &Inventory, name: &str) -> bool {
    let all = inventory.all().expect("read");
    let tool = all.iter().find(|tool| tool.name == name).expect("known");
    inventory
        .accept(tool, "uid 0", at(9), |_before, _after| Ok(()))
        .expect("kept")
}

#[test]
fn a_tool_that_changes_is_held_until_somebody_accepts() {
    let inventory = Inventory::in_memory().expect("store");
    let rules = ToolRules::default();
    let saw = |text: &str| inventory.saw(SERVER, "query", text, rules, at(1)).expect("kept");
    let called = || inventory.called(SERVER, "query", rules).expect("read");
    assert_eq!(called(), (Standing::Accepted, None));
    assert_eq!(saw("one"), Standing::Accepted);
    let (stands, digest) = called();
    assert_eq!(stands, Standing::Accepted);
    assert_eq!(saw("two"), Standing::Changed);
    assert_eq!(called().0, Standing::Changed);
    assert_ne!(called().1, digest, "a consent is bound to what the tool says");
    assert_eq!(saw("one"), Standing::Accepted, "it changed back");
    assert_eq!(saw("two"), Standing::Changed);
    assert!(accept(&inventory, "query"));
    assert_eq!((saw("two"), called().0), (Standing::Accepted, Standing::Accepted));
    assert_eq!(saw("three"), Standing::Changed);
    let other = inventory.saw(("tools", "/other"), "query", "three", rules, at(1));
    assert_eq!(other.expect("kept"), Standing::Accepted, "another server");
}

#[test]
fn what_was_shown_is_what_is_accepted() {
    let inventory = Inventory::in_memory().expect("store");
    let rules = ToolRules::default();
    for text in ["one", "two"] {
        let _stands = inventory.saw(SERVER, "query", text, rules, at(1)).expect("kept");
    }
    let shown = inventory.all().expect("read").remove(0);
    let _stands = inventory
        .saw(SERVER, "query", "three", rules, at(2))
        .expect("kept");
    let refused = |_, _| Err("it was never asked to".to_owned());
    assert!(!inventory.accept(&shown, "uid 0", at(3), refused).expect("kept"));
    // What is not recorded is not accepted.
    let shown = inventory.all().expect("read").remove(0);
    let full = |_, _| Err("the disk is full".to_owned());
    assert!(inventory.accept(&shown, "uid 0", at(3), full).is_err());
    let stands = inventory.called(SERVER, "query", rules).expect("read").0;
    assert_eq!(stands, Standing::Changed);
}

#[test]
fn the_configuration_says_what_is_enough() {
    use ChangedTools::{Block, Flag, Hold};
    for (new, changed, first, accepted, then) in [
        (
            NewTools::Accept,
            Flag,
            Standing::Accepted,
            Standing::Accepted,
            Standing::Flagged,
        ),
        (
            NewTools::Accept,
            Hold,
            Standing::Accepted,
            Standing::Accepted,
            Standing::Changed,
        ),
        (
            NewTools::Hold,
            Flag,
            Standing::New,
            Standing::Accepted,
            Standing::Flagged,
        ),
        (
            NewTools::Hold,
            Hold,
            Standing::New,
            Standing::Accepted,
            Standing::Changed,
        ),
        (NewTools::Block, Hold, Standing::New, Standing::New, Standing::New),
    ] {
        let inventory = Inventory::in_memory().expect("store");
        let rules = rules(new, changed);
        let saw = |text: &str| inventory.saw(SERVER, "query", text, rules, at(1)).expect("kept");
        assert_eq!(saw("one"), first, "{rules:?}");
        assert!(accept(&inventory, "query"));
        assert_eq!(saw("one"), accepted, "{rules:?}");
        assert_eq!(saw("two"), then, "{rules:?}");
    }
    // Blocked: also what somebody accepts.
    let inventory = Inventory::in_memory().expect("store");
    let rules = rules(NewTools::Accept, Block);
    let saw = |text: &str| inventory.saw(SERVER, "query", text, rules, at(1)).expect("kept");
    assert_eq!((saw("one"), saw("two")), (Standing::Accepted, Standing::Changed));
    assert!(accept(&inventory, "query"));
    assert_eq!((saw("two"), saw("one")), (Standing::Changed, Standing::Accepted));
}

#[test]
fn agents_of_one_host_share_it() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join(super::FILE);
    let (one, two) = (
        Inventory::open(&path).expect("open"),
        Inventory::open(&path).expect("open"),
    );
    let rules = ToolRules::default();
    let _stands = one.saw(SERVER, "query", "one", rules, at(1)).expect("kept");
    let stands = two.saw(SERVER, "query", "two", rules, at(1)).expect("kept");
    assert_eq!(stands, Standing::Changed);
    assert!(accept(&one, "query"));
    assert_eq!(
        two.called(SERVER, "query", rules).expect("read").0,
        Standing::Accepted
    );
}
