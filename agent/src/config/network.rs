//! `[dns]` and `[inbound]`: what may be asked of servers of names, and who may connect to governed processes.

use toml::Spanned;

use super::load::Reader;
use super::raw::{RawAllow, RawDns, RawInbound};
use super::types::{DnsConfig, InboundRule};
use super::value;

/// Types of records that the agent can carry: what it can read, and write again.
const CARRIED: [&str; 11] = [
    "A", "AAAA", "CNAME", "HTTPS", "MX", "NS", "PTR", "SOA", "SRV", "SVCB", "TXT",
];
/// Those that may be asked for unless configured: none that programs hold free text in.
const USUAL: [&str; 7] = ["A", "AAAA", "CNAME", "HTTPS", "PTR", "SRV", "SVCB"];

impl Reader<'_> {
    pub(super) fn inbound(&mut self, raw: RawInbound) -> Vec<InboundRule> {
        let RawInbound { allow } = raw;
        allow.into_iter().flat_map(|one| self.allow(&one)).collect()
    }

    /// One rule for each network and port.
    fn allow(&mut self, raw: &RawAllow) -> Vec<InboundRule> {
        let RawAllow { from, ports } = raw;
        let ports: Vec<Option<u16>> = match ports {
            None => vec![None],
            Some(listed) => {
                if listed.get_ref().is_empty() || listed.get_ref().contains(&0) {
                    self.wrong(
                        listed.span(),
                        "`ports` lists ports from 1; leave it out for any port",
                    );
                }
                listed.get_ref().iter().copied().map(Some).collect()
            }
        };
        if from.get_ref().is_empty() {
            self.wrong(
                from.span(),
                "`from` lists the networks that may connect, such as [\"10.0.0.0/8\"]",
            );
        }
        let mut rules = Vec::new();
        for network in from.get_ref() {
            let Some((ip, bits)) = self.take(network, value::prefix) else {
                continue;
            };
            rules.extend(ports.iter().map(|port| InboundRule {
                ip,
                bits,
                port: *port,
            }));
        }
        rules
    }

    pub(super) fn dns(&mut self, raw: &RawDns) -> DnsConfig {
        let RawDns {
            types,
            max_name,
            max_label,
            max_entropy,
            names_per_domain,
            per_second,
        } = raw;
        let types = match types {
            None => USUAL.iter().map(|name| (*name).to_owned()).collect(),
            Some(listed) => listed
                .get_ref()
                .iter()
                .filter_map(|text| self.take(text, record_type))
                .collect(),
        };
        DnsConfig {
            types,
            max_name: self.within(max_name.as_ref(), "max_name", (128, 1, 253)),
            max_label: self.within(max_label.as_ref(), "max_label", (40, 1, 63)),
            max_entropy: self.within(max_entropy.as_ref(), "max_entropy", (420, 0, 800)),
            names_per_domain: self.within(names_per_domain.as_ref(), "names_per_domain", (60, 1, 4096)),
            per_second: self.within(per_second.as_ref(), "per_second", (100, 1, 10_000)),
        }
    }

    fn within<T: Copy + PartialOrd + std::fmt::Display>(
        &mut self,
        value: Option<&Spanned<T>>,
        name: &str,
        (usual, least, most): (T, T, T),
    ) -> T {
        let Some(value) = value else { return usual };
        let given = *value.get_ref();
        if given < least || given > most {
            self.wrong(
                value.span(),
                format!("{name} is {given}: write a number from {least} to {most}"),
            );
        }
        given
    }
}

fn record_type(text: &str) -> Result<String, String> {
    let known = CARRIED.iter().find(|known| known.eq_ignore_ascii_case(text));
    known.map(|known| (*known).to_owned()).ok_or_else(|| {
        format!(
            "{text:?} is no type that the agent can carry: write some of {}",
            CARRIED.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, defaults, parse};

    fn read(text: &str) -> Result<Config, String> {
        parse(text, "interdict.toml".as_ref()).map_err(|errors| errors.to_string())
    }

    #[test]
    fn nobody_outside_connects_and_texts_are_not_asked_for_unless_configured() {
        let config = defaults();
        assert_eq!(config.inbound, []);
        assert_eq!((config.dns.max_entropy, config.dns.per_second), (420, 100));
        assert!(!config.dns.types.contains(&"TXT".to_owned()));
        let text = "[inbound]\nallow = [{ from = [\"10.0.0.0/8\", \"2001:db8::/32\"], ports = [80, 81] }, { from = [\"192.0.2.1\"] }]\n\
                    [dns]\ntypes = [\"a\", \"TXT\"]\nmax_name = 200\nmax_entropy = 375\n";
        let config = read(text).expect("valid");
        let rules: Vec<_> = config
            .inbound
            .iter()
            .map(|r| (r.ip.to_string(), r.bits, r.port))
            .collect();
        let rule = |ip: &str, bits, port| (ip.to_owned(), bits, port);
        assert_eq!(
            rules,
            [
                rule("10.0.0.0", 8, Some(80)),
                rule("10.0.0.0", 8, Some(81)),
                rule("2001:db8::", 32, Some(80)),
                rule("2001:db8::", 32, Some(81)),
                rule("192.0.2.1", 32, None),
            ]
        );
        assert_eq!(config.dns.types, ["A", "TXT"]);
        assert_eq!((config.dns.max_name, config.dns.max_entropy), (200, 375));
    }

    #[test]
    fn mistakes_name_their_line_and_the_fix() {
        for (text, expected) in [
            (
                "[dns]\ntypes = [\"ANY\"]\n",
                "interdict.toml:2: \"ANY\" is no type that the agent can carry",
            ),
            (
                "[dns]\nmax_label = 64\n",
                "interdict.toml:2: max_label is 64: write a number from 1 to 63",
            ),
            ("[dns]\nmax_entropy = 801\n", "max_entropy is 801"),
            ("[dns]\nper_second = 0\n", "per_second is 0"),
            (
                "[inbound]\nallow = [{ from = [] }]\n",
                "`from` lists the networks",
            ),
            (
                "[inbound]\nallow = [{ from = [\"::/0\"], ports = [0] }]\n",
                "`ports` lists ports from 1",
            ),
            (
                "[inbound]\nallow = [{ from = [\"10.0.0.1/8\"] }]\n",
                "write \"10.0.0.0/8\"",
            ),
            ("[inbound]\nallow = [{ ports = [80] }]\n", "from"),
        ] {
            let said = read(text).expect_err(text);
            assert!(said.contains(expected), "{text}: {said}");
        }
    }
}
