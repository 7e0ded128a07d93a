//! HTTP/1.1 and HTTP/2 (RFC 9110, 9112, 9113), plain and inside TLS.

pub mod dialect;
