//! The issuers of a configuration, read.

use std::collections::BTreeSet;
use std::time::Duration;

use toml::Spanned;

use crate::model::IssuerName;

use super::load::Reader;
use super::raw::{OneOrMany, RawIssuer, Text};
use super::types::{IssuerConfig, KeySource};
use super::value;

/// Signature algorithms that are accepted unless configured.
const ALGORITHMS: [&str; 9] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
];

impl Reader<'_> {
    pub(super) fn issuers(&mut self, raw: Vec<RawIssuer>) -> Vec<IssuerConfig> {
        let mut names = BTreeSet::new();
        let mut urls = BTreeSet::new();
        let mut issuers = Vec::new();
        for one in raw {
            if !names.insert(one.name.get_ref().clone()) {
                let what = format!(
                    "a second issuer is named {:?}: give each its own name",
                    one.name.get_ref()
                );
                self.wrong(one.name.span(), what);
            }
            if !urls.insert(one.issuer.get_ref().clone()) {
                let what = format!(
                    "a second entry has the issuer {:?}: write one entry for each",
                    one.issuer.get_ref()
                );
                self.wrong(one.issuer.span(), what);
            }
            issuers.extend(self.issuer(one));
        }
        issuers
    }

    fn issuer(&mut self, raw: RawIssuer) -> Option<IssuerConfig> {
        let RawIssuer {
            name,
            issuer,
            audience,
            jwks_file,
            jwks_url,
            algorithms,
            groups_claim,
            subject_claim,
            skew,
            ca_file,
        } = raw;
        let shown = self.take(&name, value::name);
        if shown.as_deref() == Some("workload") {
            self.wrong(
                name.span(),
                "the name \"workload\" is that of processes without an identity: give the issuer another",
            );
        }
        if audience.get_ref().is_empty() {
            self.wrong(
                audience.span(),
                "an issuer without an audience would accept tokens meant for others: name at least one",
            );
        }
        let keys = match (jwks_file, jwks_url) {
            (Some(_), Some(url)) => {
                self.wrong(url.span(), "write either jwks_file or jwks_url, not both");
                KeySource::Discovery
            }
            (Some(file), None) => KeySource::File(self.path(file)),
            (None, Some(url)) => {
                self.take(&url, value::fetchable);
                KeySource::Url(url.into_inner())
            }
            (None, None) => {
                self.take(&issuer, value::fetchable);
                KeySource::Discovery
            }
        };
        let groups = match groups_claim {
            None => vec!["groups".to_owned()],
            Some(claim) => {
                let span = claim.span();
                let path = match claim.into_inner() {
                    OneOrMany::One(name) => vec![name],
                    OneOrMany::Many(names) => names,
                };
                if path.is_empty() || path.iter().any(String::is_empty) {
                    self.wrong(span, "groups_claim is empty: write a claim, or a path such as [\"realm_access\", \"roles\"]");
                }
                path
            }
        };
        Some(IssuerConfig {
            name: IssuerName::new(shown.unwrap_or_default()),
            issuer: issuer.into_inner(),
            audiences: audience.into_inner(),
            keys,
            algorithms: self.algorithms(algorithms),
            groups_claim: groups,
            subject_claim: subject_claim.map_or_else(|| "sub".to_owned(), Spanned::into_inner),
            skew: self.duration(skew.as_ref(), Duration::from_secs(60)),
            ca_file: ca_file.map(|file| self.path(file)),
        })
    }

    fn algorithms(&mut self, raw: Option<Vec<Text>>) -> Vec<String> {
        let Some(names) = raw else {
            return ALGORITHMS.map(str::to_owned).to_vec();
        };
        let known = |name: &str| {
            if ALGORITHMS.contains(&name) {
                Ok(name.to_owned())
            } else {
                Err(format!(
                    "{name:?} is not accepted: choose among {} (never a shared secret, never none)",
                    ALGORITHMS.join(", ")
                ))
            }
        };
        names.iter().filter_map(|name| self.take(name, known)).collect()
    }
}
