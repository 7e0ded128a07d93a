//! The pure verdicts.

use super::*;

#[test]
fn four_families_are_allowed() {
    let allowed: Vec<u32> = (0..64).filter(|family| family_allowed(*family)).collect();
    assert_eq!(allowed, [AF_UNIX, AF_INET, AF_INET6, AF_NETLINK]);
}

#[test]
fn what_the_numbers_say() {
    assert!(is_socket(0o140_777) && !is_socket(0o100_644) && !is_socket(0o120_000));
    assert!(into_cgroup(0x2_0000_0011) && !into_cgroup(0x0_ffff_ffff));
    assert!(is_writable(3) && !is_writable(1));
    assert!(look_is_told(0x9) && !look_is_told(0xd));
}
