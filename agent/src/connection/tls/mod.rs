//! TLS on both legs: the agent's own authority towards the process, verification towards the target.
