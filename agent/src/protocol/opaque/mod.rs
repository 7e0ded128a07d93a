//! Connections whose bytes the agent does not understand: forwarded only where a policy names them.
