//! The kernel half on the running kernel: real hooks, real sockets, a cgroup of the test's own.
//!
//! Needs root and a cgroup2 mount. Without them it says so loudly and passes, or fails where `CI=true`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a test program reports")]

use std::process::ExitCode;

#[path = "kernel/agent.rs"]
mod agent;
#[path = "kernel/denied.rs"]
mod denied;
#[path = "kernel/egress.rs"]
mod egress;
#[path = "kernel/inbound.rs"]
mod inbound;
#[path = "kernel/lifetime.rs"]
mod lifetime;
#[path = "kernel/load.rs"]
mod load;
#[path = "kernel/lsm.rs"]
mod lsm;
#[path = "kernel/names.rs"]
mod names;
#[path = "kernel/redirected.rs"]
mod redirected;
#[path = "kernel/rules.rs"]
mod rules;
#[path = "kernel/world.rs"]
mod world;

type Test = (&'static str, fn() -> anyhow::Result<()>);

const TESTS: &[Test] = &[
    (
        "redirected::every_kind_of_connect",
        redirected::every_kind_of_connect,
    ),
    (
        "redirected::io_uring_goes_through_the_hooks",
        redirected::io_uring_goes_through_the_hooks,
    ),
    (
        "redirected::a_socket_can_connect_again",
        redirected::a_socket_can_connect_again,
    ),
    (
        "redirected::each_connection_is_its_own",
        redirected::each_connection_is_its_own,
    ),
    (
        "redirected::a_failed_connect_leaves_no_flow",
        redirected::a_failed_connect_leaves_no_flow,
    ),
    (
        "redirected::others_are_left_alone",
        redirected::others_are_left_alone,
    ),
    (
        "denied::what_cannot_be_redirected",
        denied::what_cannot_be_redirected,
    ),
    ("denied::the_agents_ports", denied::the_agents_ports),
    (
        "denied::everything_while_the_agent_hangs",
        denied::everything_while_the_agent_hangs,
    ),
    ("denied::a_flood_is_counted", denied::a_flood_is_counted),
    (
        "egress::packets_past_the_other_hooks_stay",
        egress::packets_past_the_other_hooks_stay,
    ),
    (
        "names::every_way_to_ask_a_server",
        names::every_way_to_ask_a_server,
    ),
    ("names::several_servers_at_once", names::several_servers_at_once),
    ("names::nobody_else_is_heard", names::nobody_else_is_heard),
    ("inbound::only_who_is_allowed", inbound::only_who_is_allowed),
    (
        "rules::networks_are_decided_in_the_kernel",
        rules::networks_are_decided_in_the_kernel,
    ),
    ("rules::direct_packets_leave", rules::direct_packets_leave),
    (
        "rules::the_order_of_hooks_is_known",
        rules::the_order_of_hooks_is_known,
    ),
    ("lsm::what_no_other_hook_sees", lsm::what_no_other_hook_sees),
    ("lsm::unix_sockets_of_others", lsm::unix_sockets_of_others),
    ("lsm::passed_descriptors", lsm::passed_descriptors),
    ("load::ten_thousand_at_once", load::ten_thousand_at_once),
    ("load::two_thousand_a_second", load::two_thousand_a_second),
    ("lifetime::labels_are_inherited", lifetime::labels_are_inherited),
    (
        "lifetime::a_label_outlives_the_main_thread",
        lifetime::a_label_outlives_the_main_thread,
    ),
    (
        "lifetime::launched_as_somebody_else",
        lifetime::launched_as_somebody_else,
    ),
    (
        "lifetime::what_cannot_be_launched",
        lifetime::what_cannot_be_launched,
    ),
    (
        "lifetime::a_killed_agent_leaves_the_guard",
        lifetime::a_killed_agent_leaves_the_guard,
    ),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("__launch") => return agent::launched(&arguments),
        Some("__agent") => return agent::run(&arguments),
        Some(_) | None => {}
    }
    if arguments.iter().any(|a| a == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if let Err(why) = world::possible() {
        println!("SKIPPED (no BPF/root): {why}: nothing about the kernel half was tested");
        let required = std::env::var("CI").is_ok_and(|ci| ci == "true");
        return ExitCode::from(u8::from(required));
    }
    let wanted: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let chosen = |name: &str| wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str()));
    let mut failed = 0usize;
    for (name, test) in TESTS.iter().filter(|(name, _)| chosen(name)) {
        match test() {
            Ok(()) => println!("test {name} ... ok"),
            Err(error) => {
                failed += 1;
                println!("test {name} ... FAILED\n    {error:#}");
            }
        }
    }
    let passed = TESTS.iter().filter(|(name, _)| chosen(name)).count() - failed;
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored");
    ExitCode::from(u8::from(failed > 0))
}
