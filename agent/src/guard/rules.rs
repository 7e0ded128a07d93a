//! The kernel's own rules: which networks are direct, denied or redirected before any policy is asked.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use aya::maps::MapData;
use aya::maps::lpm_trie::{Key, LpmTrie};
use interdict_ebpf::{RUN_LABEL, Rule, RuleKey, RuleVerdict};

use crate::config::{InboundRule, NetworkRule, NetworkVerdict};

use super::client::Caller;
use super::error::GuardError;
use super::hooks::map_error;

/// Entries of the kernel's table (`RULES` in agent-ebpf).
pub(super) const MAX_RULES: usize = 16_384;

/// The kernel's table of rules.
pub struct RuleTable(Table);

enum Table {
    Own(Loaded),
    /// The guard's, which knows the networks by itself.
    Asked(Caller),
}

struct Loaded {
    map: LpmTrie<MapData, RuleKey, Rule>,
    rules: HashMap<RuleKey, Rule>,
}

impl std::fmt::Debug for RuleTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RuleTable").finish_non_exhaustive()
    }
}

impl RuleTable {
    pub(super) fn new(map: LpmTrie<MapData, RuleKey, Rule>) -> Self {
        let rules = HashMap::new();
        Self(Table::Own(Loaded { map, rules }))
    }

    pub(super) const fn asking(calls: Caller) -> Self {
        Self(Table::Asked(calls))
    }

    /// The table of an agent before, with what is in it.
    pub(super) fn adopted(map: LpmTrie<MapData, RuleKey, Rule>) -> Self {
        let loaded = map.iter().flatten().map(|(key, rule)| (key.data(), rule));
        let loaded = loaded.collect();
        Self(Table::Own(Loaded { map, rules: loaded }))
    }

    /// Puts the rules for `networks` and `targets` in the place of all before. A target is redirected whatever network
    /// it lies in. What closes comes before what opens, so that nothing is direct in between that is not afterwards.
    ///
    /// # Errors
    /// Where they are too many, or the kernel refuses one: then the old ones stay, and none of the new is direct.
    pub fn replace(&mut self, networks: &[NetworkRule], targets: &[SocketAddr]) -> Result<(), GuardError> {
        match &mut self.0 {
            Table::Own(loaded) => loaded.replace(networks, targets),
            Table::Asked(calls) => calls.targets(targets),
        }
    }
}

impl Loaded {
    fn replace(&mut self, networks: &[NetworkRule], targets: &[SocketAddr]) -> Result<(), GuardError> {
        let wanted = compile(networks, targets);
        if wanted.len() > MAX_RULES {
            return Err(GuardError::Map {
                map: "RULES",
                reason: format!(
                    "{} rules, and there is room for {MAX_RULES}: join networks",
                    wanted.len()
                ),
            });
        }
        let opens = |rule: &Rule| rule.verdict == RuleVerdict::Direct as u8;
        let mut order: Vec<_> = wanted.iter().collect();
        order.sort_by_key(|(_, rule)| opens(rule));
        for (key, rule) in order {
            self.map
                .insert(&entry(key, *rule), rule, 0)
                .map_err(|e| map_error("RULES", &e))?;
        }
        let mut old: Vec<_> = self
            .rules
            .iter()
            .filter(|(key, _)| !wanted.contains_key(key))
            .collect();
        old.sort_by_key(|(_, rule)| !opens(rule));
        for (key, rule) in old {
            self.map
                .remove(&entry(key, *rule))
                .map_err(|e| map_error("RULES", &e))?;
        }
        self.rules = wanted;
        Ok(())
    }
}

/// Loads who may connect to governed processes from outside, in the place of those before.
pub(super) fn allow_inbound(
    map: &mut LpmTrie<MapData, RuleKey, Rule>,
    rules: &[InboundRule],
) -> Result<(), GuardError> {
    let before: Vec<_> = map.iter().flatten().map(|(key, _)| key).collect();
    for key in before {
        map.remove(&key).map_err(|e| map_error("INBOUND", &e))?;
    }
    for InboundRule { ip, bits, port } in rules {
        let (key, rule) = one(*ip, *bits, port.unwrap_or(0), RuleVerdict::Direct);
        map.insert(&entry(&key, rule), rule, 0)
            .map_err(|e| map_error("INBOUND", &e))?;
    }
    Ok(())
}

fn entry(key: &RuleKey, rule: Rule) -> Key<RuleKey> {
    Key::new(RuleKey::HEAD_BITS + u32::from(rule.bits), *key)
}

fn compile(networks: &[NetworkRule], targets: &[SocketAddr]) -> HashMap<RuleKey, Rule> {
    let mut rules = HashMap::new();
    for network in networks {
        let NetworkRule {
            ip,
            bits,
            port,
            verdict,
        } = *network;
        let verdict = match verdict {
            NetworkVerdict::Redirect => RuleVerdict::Redirect,
            NetworkVerdict::Direct => RuleVerdict::Direct,
            NetworkVerdict::Deny => RuleVerdict::Deny,
        };
        let (key, rule) = one(ip, bits, port.unwrap_or(0), verdict);
        // Of two for the same network, the stricter.
        let kept = rules.entry(key).or_insert(rule);
        if strictness(rule) > strictness(*kept) {
            *kept = rule;
        }
    }
    for target in targets {
        let most = if target.is_ipv4() { 32 } else { 128 };
        let (key, rule) = one(target.ip(), most, target.port(), RuleVerdict::Redirect);
        rules.insert(key, rule);
    }
    rules
}

fn strictness(rule: Rule) -> u8 {
    match RuleVerdict::from_number(rule.verdict) {
        RuleVerdict::Direct => 0,
        // Never written into the table; there it would do as a redirection does.
        RuleVerdict::Redirect | RuleVerdict::None => 1,
        RuleVerdict::Deny => 2,
    }
}

fn one(ip: IpAddr, bits: u8, port: u16, verdict: RuleVerdict) -> (RuleKey, Rule) {
    let (ip, bits) = match ip {
        IpAddr::V4(v4) => (v4.to_ipv6_mapped(), bits.saturating_add(96)),
        IpAddr::V6(v6) => (v6, bits),
    };
    let key = RuleKey {
        label: RUN_LABEL,
        port,
        pad: 0,
        ip: ip.octets(),
    };
    let verdict = verdict as u8;
    (key, Rule { verdict, bits })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(ip: &str, bits: u8, port: Option<u16>, verdict: NetworkVerdict) -> NetworkRule {
        let ip = ip.parse().expect("address");
        NetworkRule {
            ip,
            bits,
            port,
            verdict,
        }
    }

    #[test]
    fn a_target_is_redirected_wherever_it_lies() {
        let direct = NetworkVerdict::Direct;
        let networks = [
            network("10.0.0.0", 8, None, direct),
            network("10.0.0.7", 32, Some(5432), direct),
        ];
        let target = "10.0.0.7:5432".parse().expect("address");
        let rules = compile(&networks, &[target]);
        assert_eq!(rules.len(), 2);
        let (key, rule) = one(target.ip(), 32, 5432, RuleVerdict::Redirect);
        assert_eq!(rules.get(&key), Some(&rule));
        assert_eq!(rule.bits, 128);
    }

    #[test]
    fn of_two_for_the_same_network_the_stricter_holds() {
        use NetworkVerdict::{Deny, Direct};
        for pair in [[Deny, Direct], [Direct, Deny]] {
            let rules = compile(&pair.map(|v| network("2001:db8::", 32, None, v)), &[]);
            let verdicts: Vec<u8> = rules.values().map(|rule| rule.verdict).collect();
            assert_eq!(verdicts, [RuleVerdict::Deny as u8]);
        }
    }
}
