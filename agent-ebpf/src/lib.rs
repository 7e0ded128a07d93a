//! The kernel half's ABI: what both sides of the maps agree on, and the pure verdict.
#![cfg_attr(not(test), no_std)]
