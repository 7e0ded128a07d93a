//! Harness words for the suites: worlds, servers, clients, expectations.
