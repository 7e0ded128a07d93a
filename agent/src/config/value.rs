//! Single values: addresses, names.

use std::net::IpAddr;

use super::types::{NetworkVerdict, TargetAddress};

/// `host:port`, `address:port` or `[v6]:port`; without a port, `default_port`.
pub(super) fn address(text: &str, default_port: Option<u16>) -> Result<TargetAddress, String> {
    let wrong = || {
        format!(
            "{text:?} is no address: write host:port, such as \"db.internal:5432\" or \"[2001:db8::7]:5432\""
        )
    };
    if let Ok(socket) = text.parse::<std::net::SocketAddr>() {
        return Ok(TargetAddress {
            host: socket.ip().to_string(),
            port: socket.port(),
        });
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => {
            (host, Some(port.parse::<u16>().map_err(|_not_a_port| wrong())?))
        }
        Some(_) => (text, None),
        None => (text, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let valid = host.parse::<IpAddr>().is_ok() || is_dns_name(host);
    match (valid, port.or(default_port)) {
        (true, Some(port)) if port != 0 => Ok(TargetAddress {
            host: host.to_ascii_lowercase(),
            port,
        }),
        _ => Err(wrong()),
    }
}

/// `ADDRESS/LENGTH`, or an address alone.
pub(super) fn prefix(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong = || format!("{text:?} is no network: write one such as \"10.1.0.0/16\" or \"2001:db8::/32\"");
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let ip = address.parse::<IpAddr>().map_err(|_no_address| wrong())?;
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let bits = length.map_or(Ok(most), |l| l.parse::<u8>().map_err(|_no_number| wrong()))?;
    if bits > most {
        return Err(wrong());
    }
    let whole = first_of(ip, bits);
    if whole != ip {
        return Err(format!(
            "{text:?} has bits beyond its prefix: write \"{whole}/{bits}\""
        ));
    }
    Ok((ip, bits))
}

/// The first address of the network that `ip` lies in.
fn first_of(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX
                .checked_shl(32_u32.saturating_sub(bits.into()))
                .unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX
                .checked_shl(128_u32.saturating_sub(bits.into()))
                .unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

/// `direct`, `redirect`, `deny`.
pub(super) fn network_verdict(text: &str) -> Result<NetworkVerdict, String> {
    match text {
        "direct" => Ok(NetworkVerdict::Direct),
        "redirect" => Ok(NetworkVerdict::Redirect),
        "deny" => Ok(NetworkVerdict::Deny),
        _ => Err(format!(
            "{text:?} is no verdict: write \"direct\", \"redirect\" or \"deny\""
        )),
    }
}

/// Letters, digits, `-` and `_` in labels of at most 63, 253 in all (RFC 1123, with the underscore that people use).
fn is_dns_name(text: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && l.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.len() <= 253 && text.trim_end_matches('.').split('.').all(label)
}

/// A short name for configured things: what records and policies carry.
pub(super) fn name(text: &str) -> Result<String, String> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !text.is_empty() && text.len() <= 64 && text.bytes().all(fine) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{text:?} is no name: use at most 64 letters, digits, `-`, `_` and `.`"
        ))
    }
}

/// Whether a key set may be fetched from there: `https`, or `http` on loopback.
///
/// # Errors
/// What to write instead.
pub fn fetchable(url: &str) -> Result<(), String> {
    if let Some(rest) = url.strip_prefix("https://") {
        return if rest.is_empty() {
            Err(format!("{url:?} has no host"))
        } else {
            Ok(())
        };
    }
    let host = url
        .strip_prefix("http://")
        .map(|rest| rest.split(['/', '?']).next().unwrap_or_default());
    let bare = host.map(|h| {
        h.rsplit_once(':')
            .map_or(h, |(before, _port)| before)
            .trim_matches(['[', ']'])
    });
    let loopback =
        bare.is_some_and(|h| h == "localhost" || h.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()));
    if loopback {
        Ok(())
    } else {
        Err(format!(
            "{url:?} is not safe: write an https:// URL (http:// only on loopback)"
        ))
    }
}

/// A page where a request can be approved: `https://approve.example.com/{ticket}`.
pub(super) fn approval_url(text: &str) -> Result<String, String> {
    let uri: Result<http::Uri, _> = text.replace("{ticket}", "apr-222222").parse();
    let fits = uri.is_ok_and(|uri| {
        let local = matches!(uri.host(), Some("localhost" | "127.0.0.1" | "[::1]"));
        uri.scheme_str() == Some("https") || (uri.scheme_str() == Some("http") && local)
    });
    if fits && text.contains("{ticket}") {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} is no link to approve at: write url = \"https://approve.example.com/{{ticket}}\" (http on loopback only)"
    ))
}
