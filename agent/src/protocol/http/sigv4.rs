//! AWS Signature Version 4: the request that goes on is signed with the real key, whatever the process signed.
//!
//! After "Create a signed AWS API request" of the AWS reference. S3 signs a path as it is, every other service encodes it
//! once more; all of a body is hashed, unless the process sends it in the form that has its own checksum at the end
//! (`STREAMING-UNSIGNED-PAYLOAD-TRAILER`).

use std::fmt::Write;

use aws_lc_rs::{digest, hmac};
use http::uri::PathAndQuery;
use hyper::Method;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::credential::Secret;

use super::path::{encode, form_text};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
const CONTENT: HeaderName = HeaderName::from_static("x-amz-content-sha256");
/// The body has chunks without signatures, and a checksum behind them.
const UNSIGNED_TRAILER: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
/// The body is covered by no signature, only by TLS; S3 takes that.
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
/// What a signature in the query consists of.
const PRESIGNED: [&str; 7] = [
    "x-amz-algorithm",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-expires",
    "x-amz-signedheaders",
    "x-amz-signature",
    "x-amz-security-token",
];

/// What requests are signed with.
pub(super) struct Signing {
    pub(super) access_key: String,
    pub(super) secret: Secret,
    pub(super) session_token: Option<Secret>,
    pub(super) region: String,
    pub(super) service: String,
}

/// Whether the process's own field belongs to its signature.
pub(super) fn replaces(field: &HeaderName) -> bool {
    [header::AUTHORIZATION, DATE, TOKEN, CONTENT].contains(field)
}

/// Whether a request has chunks that are signed one by one with a key that the process cannot have.
pub(super) fn has_signed_chunks(headers: &HeaderMap) -> bool {
    let content = headers.get(CONTENT).and_then(|value| value.to_str().ok());
    content.is_some_and(|value| value.starts_with("STREAMING-") && value != UNSIGNED_TRAILER)
}

impl Signing {
    /// Signs a request with everything that it has, in the place of every signature of the process.
    pub(super) fn sign(
        &self,
        (method, authority): (&Method, &str),
        target: &mut PathAndQuery,
        headers: &mut HeaderMap,
        body: Option<&[u8]>,
        now: OffsetDateTime,
    ) {
        let kept = headers
            .get(CONTENT)
            .filter(|value| *value == UNSIGNED_TRAILER)
            .cloned();
        for name in [header::AUTHORIZATION, DATE, TOKEN, CONTENT] {
            headers.remove(name);
        }
        unsign(target);
        let date = stamp(now);
        let content = match (&kept, body) {
            (Some(_), _) => UNSIGNED_TRAILER.to_owned(),
            (None, None) => UNSIGNED.to_owned(),
            (None, Some(body)) => {
                data_encoding::HEXLOWER.encode(digest::digest(&digest::SHA256, body).as_ref())
            }
        };
        let mut put = |name: HeaderName, value: &[u8], secret: bool| {
            if let Ok(mut value) = HeaderValue::from_bytes(value) {
                value.set_sensitive(secret);
                headers.insert(name, value);
            }
        };
        put(DATE, date.as_bytes(), false);
        put(CONTENT, content.as_bytes(), false);
        if let Some(token) = &self.session_token {
            put(TOKEN, token.expose(), true);
        }
        let signed = signed_fields(authority, headers);
        let authorization = self.authorization((method, target, &signed, &content), &date);
        if let Ok(mut value) = HeaderValue::try_from(authorization.as_str()) {
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
    }

    /// The value of `Authorization`.
    fn authorization(
        &self,
        (method, target, fields, content): (&Method, &PathAndQuery, &[(String, String)], &str),
        date: &str,
    ) -> Zeroizing<String> {
        let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(";");
        let mut request = format!(
            "{method}\n{}\n{}\n",
            self.canonical_path(target.path()),
            canonical_query(target.query().unwrap_or_default())
        );
        for (name, value) in fields {
            let _never_fails = writeln!(request, "{name}:{value}");
        }
        let _never_fails = write!(request, "\n{names}\n{content}");
        let hash =
            data_encoding::HEXLOWER.encode(digest::digest(&digest::SHA256, request.as_bytes()).as_ref());
        let day = date.split('T').next().unwrap_or_default();
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let text = format!("{ALGORITHM}\n{date}\n{scope}\n{hash}");
        let first = Zeroizing::new([b"AWS4", self.secret.expose()].concat());
        let mut key = mac(&first, day.as_bytes());
        for part in [self.region.as_str(), &self.service, "aws4_request"] {
            key = mac(key.as_ref(), part.as_bytes());
        }
        let signature = data_encoding::HEXLOWER.encode(mac(key.as_ref(), text.as_bytes()).as_ref());
        Zeroizing::new(format!(
            "{ALGORITHM} Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            self.access_key
        ))
    }

    fn canonical_path(&self, path: &str) -> String {
        let once = |part: &str| encode(&percent_decoded(part)).to_string();
        let parts: Vec<String> = if self.service == "s3" {
            path.split('/').map(once).collect()
        } else {
            path.split('/')
                .map(|part| encode(once(part).as_bytes()).to_string())
                .collect()
        };
        parts.join("/")
    }
}

fn mac(key: &[u8], text: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text)
}

/// Fields that are signed: the host, the type of the body, and everything that AWS reads itself.
fn signed_fields(authority: &str, headers: &HeaderMap) -> Vec<(String, String)> {
    let mut fields = vec![("host".to_owned(), authority.to_owned())];
    for name in headers.keys() {
        let read = name == header::CONTENT_TYPE || name.as_str().starts_with("x-amz-");
        if read {
            let values: Vec<String> = headers.get_all(name).iter().map(plain).collect();
            fields.push((name.as_str().to_owned(), values.join(",")));
        }
    }
    fields.sort();
    fields
}

/// A value with single blanks.
fn plain(value: &HeaderValue) -> String {
    let text = String::from_utf8_lossy(value.as_bytes());
    text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

/// The parameters in their order, each encoded in one way.
fn canonical_query(query: &str) -> String {
    let mut all: Vec<(String, String)> = pairs(query)
        .map(|(name, value)| {
            let one = |text: &str| encode(form_text(text).as_bytes()).to_string();
            (one(name), one(value.unwrap_or_default()))
        })
        .collect();
    all.sort();
    let all: Vec<String> = all
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    all.join("&")
}

/// The parameters of a query as AWS separates them.
fn pairs(query: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts.map(|part| match part.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (part, None),
    })
}

/// Takes a signature out of a query.
fn unsign(target: &mut PathAndQuery) {
    let Some(query) = target.query() else { return };
    let own = |name: &str| PRESIGNED.contains(&form_text(name).to_ascii_lowercase().as_str());
    if !pairs(query).any(|(name, _)| own(name)) {
        return;
    }
    let left: Vec<String> = pairs(query)
        .filter(|(name, _)| !own(name))
        .map(|(name, value)| match value {
            Some(value) => format!("{name}={value}"),
            None => name.to_owned(),
        })
        .collect();
    let mut text = target.path().to_owned();
    if !left.is_empty() {
        text.push('?');
        text.push_str(&left.join("&"));
    }
    if let Ok(without) = PathAndQuery::try_from(text) {
        *target = without;
    }
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'%', [high, low, after @ ..]) if super::path::hex(*high, *low).is_some() => {
                out.extend(super::path::hex(*high, *low));
                rest = after;
            }
            (byte, _) => out.push(*byte),
        }
    }
    out
}

/// `20150830T123600Z`.
fn stamp(at: OffsetDateTime) -> String {
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second) = at.to_hms();
    format!(
        "{year:04}{:02}{day:02}T{hour:02}{minute:02}{second:02}Z",
        u8::from(month)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signing(service: &str, (key, secret): (&str, &str)) -> Signing {
        Signing {
            access_key: key.into(),
            secret: Secret::new(secret.as_bytes().to_vec()),
            session_token: None,
            region: "us-east-1".into(),
            service: service.into(),
        }
    }

    fn fields(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect()
    }

    /// What AWS publishes for the algorithm (two of its suite, and the example for S3); the other paths as botocore signs them.
    #[test]
    fn published_signatures_are_met() {
        const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let one = signing(
            "service",
            ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
        );
        let date = "20150830T123600Z";
        let usual = fields(&[("host", "example.amazonaws.com"), ("x-amz-date", date)]);
        let table = [
            (
                "/",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "/?Param2=value2&Param1=value1",
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            (
                "/%E1%88%B4",
                "697b34846207a3f72246f99d74ae1ee4fe54f44bb06730c58a0d339eb079596d",
            ),
            (
                "/-._~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
                "98964e1079ce472101899439653197a4f6e602f30cd6aaf6c76d81b4fd9866fe",
            ),
        ];
        for (target, expected) in table {
            let target = PathAndQuery::try_from(target).expect("target");
            let seen = one.authorization((&Method::GET, &target, &usual, EMPTY), date);
            assert!(
                seen.ends_with(&format!("Signature={expected}")),
                "{target}: {}",
                *seen
            );
        }
        // The example for S3 in its own reference.
        let s3 = signing(
            "s3",
            ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        );
        let date = "20130524T000000Z";
        let with_range = fields(&[
            ("host", "examplebucket.s3.amazonaws.com"),
            ("range", "bytes=0-9"),
            ("x-amz-content-sha256", EMPTY),
            ("x-amz-date", date),
        ]);
        let target = PathAndQuery::from_static("/test.txt");
        let seen = s3.authorization((&Method::GET, &target, &with_range, EMPTY), date);
        let expected = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
             SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, \
             Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
        assert_eq!(*seen, expected);
    }

    #[test]
    fn signatures_of_the_process_are_taken_out() {
        let mut target = PathAndQuery::from_static(
            "/a?x=1&X-Amz-Algorithm=A&X%2DAmz-Signature=0&x-amz-expires=9&X-Amz-Credential=c&list-type=2&y",
        );
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "AWS4-HMAC-SHA256 Credential=dummy"),
            ("authorization", "second"),
            ("x-amz-security-token", "dummy"),
            ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
            ("x-amz-acl", "private"),
            ("content-type", "text/plain"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let mut one = signing("s3", ("REALKEY", "secret"));
        one.session_token = Some(Secret::new(b"token".to_vec()));
        let now = OffsetDateTime::from_unix_timestamp(1_440_938_160).expect("time");
        one.sign(
            (&Method::PUT, "b.example:9000"),
            &mut target,
            &mut headers,
            Some(b"body"),
            now,
        );
        assert_eq!(target.as_str(), "/a?x=1&list-type=2&y");
        let all: Vec<_> = headers.get_all("authorization").iter().collect();
        let text = all.first().and_then(|v| v.to_str().ok()).unwrap_or_default();
        assert_eq!(all.len(), 1);
        assert!(
            text.starts_with("AWS4-HMAC-SHA256 Credential=REALKEY/20150830/us-east-1/s3/"),
            "{text}"
        );
        assert!(
            text.contains("SignedHeaders=content-type;host;x-amz-acl;x-amz-content-sha256;x-amz-date;x-amz-security-token"),
            "{text}"
        );
        assert_eq!(
            headers.get("x-amz-security-token").map(HeaderValue::as_bytes),
            Some(b"token".as_slice())
        );
        assert_eq!(
            headers.get("x-amz-date").map(HeaderValue::as_bytes),
            Some(b"20150830T123600Z".as_slice())
        );
        assert!(!has_signed_chunks(&headers));
        headers.insert(
            CONTENT,
            HeaderValue::from_static("STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        );
        assert!(has_signed_chunks(&headers));
    }
}
