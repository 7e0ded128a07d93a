//! Figures for monitoring: as they go over the control socket, and as Prometheus reads them.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// Figures of one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Family {
    /// The name.
    pub name: String,
    /// What it says.
    pub help: String,
    /// `counter` or `gauge`.
    pub kind: String,
    /// The figures.
    pub samples: Vec<Sample>,
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Names and values of labels.
    pub labels: Vec<(String, String)>,
    /// The figure, as it is written.
    pub value: String,
}

/// Puts the figures of another agent to those of the same name.
pub fn merge(into: &mut Vec<Family>, more: Vec<Family>) {
    for family in more {
        match into.iter_mut().find(|known| known.name == family.name) {
            Some(known) => known.samples.extend(family.samples),
            None => into.push(family),
        }
    }
}

/// Prometheus' text format, version 0.0.4.
#[must_use]
pub fn text(families: &[Family]) -> String {
    let mut out = String::new();
    for Family {
        name,
        help,
        kind,
        samples,
    } in families
    {
        // Writing to a String does not fail.
        let _written = writeln!(
            out,
            "# HELP {name} {}\n# TYPE {name} {kind}",
            escaped(help, false)
        );
        for Sample { labels, value } in samples {
            let labels: Vec<String> = labels
                .iter()
                .map(|(name, value)| format!("{name}=\"{}\"", escaped(value, true)))
                .collect();
            let _written = if labels.is_empty() {
                writeln!(out, "{name} {value}")
            } else {
                writeln!(out, "{name}{{{}}} {value}", labels.join(","))
            };
        }
    }
    out
}

fn escaped(text: &str, quotes: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { text.replace('"', "\\\"") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(name: &str, label: &str) -> Family {
        Family {
            name: name.into(),
            help: "What it says.".into(),
            kind: "counter".into(),
            samples: vec![Sample {
                labels: vec![("run".into(), label.into())],
                value: "1".into(),
            }],
        }
    }

    #[test]
    fn figures_of_several_agents_stand_together() {
        let mut all = vec![family("a_total", "x")];
        merge(
            &mut all,
            vec![family("b_total", "y"), family("a_total", "q\"\\\n")],
        );
        let expected = "# HELP a_total What it says.\n# TYPE a_total counter\na_total{run=\"x\"} 1\na_total{run=\"q\\\"\\\\\\n\"} 1\n\
                        # HELP b_total What it says.\n# TYPE b_total counter\nb_total{run=\"y\"} 1\n";
        assert_eq!(text(&all), expected);
    }
}
