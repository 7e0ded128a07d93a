//! What is linked into the binary: a CycloneDX 1.5 document made from cargo's own knowledge, the same for the same lock file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::shell::{cargo, output, repository};

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    description: Option<String>,
    repository: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// Writes the document to a file.
pub(crate) fn write(to: &Path, epoch: u64) -> Result<()> {
    to.parent().map_or(Ok(()), fs::create_dir_all)?;
    let text = serde_json::to_string_pretty(&document(epoch)?)?;
    Ok(fs::write(to, text + "\n")?)
}

fn document(epoch: u64) -> Result<Value> {
    let platform = super::architecture("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu");
    let text = output(cargo(&[
        "metadata",
        "--format-version=1",
        "--locked",
        "--offline",
        "--filter-platform",
        platform,
    ]))?;
    let metadata: Metadata = serde_json::from_str(&text)?;
    let lock: Lock = toml::from_str(&fs::read_to_string(repository().join("Cargo.lock"))?)?;
    let sums: BTreeMap<(String, String), String> = lock
        .package
        .into_iter()
        .filter_map(|p| Some(((p.name, p.version), p.checksum?)))
        .collect();
    let packages: BTreeMap<&str, &Package> = metadata.packages.iter().map(|p| (p.id.as_str(), p)).collect();
    let agent = metadata
        .packages
        .iter()
        .find(|p| p.name == "interdict" && p.source.is_none())
        .context("the agent is no package")?;
    let needs = linked(&metadata.resolve);
    let mut reached = BTreeSet::from([agent.id.as_str()]);
    let mut open = vec![agent.id.as_str()];
    while let Some(id) = open.pop() {
        for next in needs.get(id).into_iter().flatten() {
            if reached.insert(next) {
                open.push(next);
            }
        }
    }
    let mut components: Vec<Value> = Vec::new();
    let mut dependencies: Vec<Value> = Vec::new();
    let mut sorted: Vec<&&Package> = reached.iter().filter_map(|id| packages.get(id)).collect();
    sorted.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    for package in sorted {
        let mut on: Vec<String> = needs
            .get(package.id.as_str())
            .into_iter()
            .flatten()
            .filter_map(|id| packages.get(id).map(|p| purl(p)))
            .collect();
        on.sort();
        dependencies.push(json!({"ref": purl(package), "dependsOn": on}));
        if package.id != agent.id {
            components.push(component(package, &sums));
        }
    }
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": time(epoch)?,
            "component": {"type": "application", "bom-ref": purl(agent), "name": agent.name, "version": agent.version,
                "purl": purl(agent), "licenses": [{"expression": "Apache-2.0"}]},
        },
        "components": components,
        "dependencies": dependencies,
    }))
}

/// What each package needs at run time: neither tests nor what only builds.
fn linked(resolve: &Resolve) -> BTreeMap<&str, Vec<&str>> {
    let normal = |d: &&Dependency| d.dep_kinds.iter().any(|kind| kind.kind.is_none());
    resolve
        .nodes
        .iter()
        .map(|node| {
            let on = node.deps.iter().filter(normal).map(|d| d.pkg.as_str());
            (node.id.as_str(), on.collect())
        })
        .collect()
}

fn purl(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

fn component(package: &Package, sums: &BTreeMap<(String, String), String>) -> Value {
    let mut made = json!({
        "type": "library", "bom-ref": purl(package), "name": package.name, "version": package.version, "purl": purl(package),
    });
    if let Some(licence) = &package.license {
        made["licenses"] = json!([{"expression": licence.replace('/', " OR ")}]);
    }
    if let Some(text) = &package.description {
        made["description"] = json!(text.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    if let Some(sum) = sums.get(&(package.name.clone(), package.version.clone())) {
        made["hashes"] = json!([{"alg": "SHA-256", "content": sum}]);
    }
    if let Some(url) = &package.repository {
        made["externalReferences"] = json!([{"type": "vcs", "url": url}]);
    }
    made
}

/// RFC 3339, from `date`.
fn time(epoch: u64) -> Result<String> {
    let at = format!("@{epoch}");
    let text = output(crate::shell::command(
        "date",
        &["-u", "-d", &at, "+%Y-%m-%dT%H:%M:%SZ"],
    ))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_listed_with_licence_and_digest() {
        let made = document(0).expect("made");
        assert_eq!(made["metadata"]["timestamp"], "1970-01-01T00:00:00Z");
        let components = made["components"].as_array().expect("a list");
        let named = |name: &str| components.iter().find(|c| c["name"] == name);
        let rustls = named("rustls").expect("rustls is linked");
        assert!(
            rustls["hashes"][0]["content"]
                .as_str()
                .is_some_and(|sum| sum.len() == 64)
        );
        assert!(
            rustls["licenses"][0]["expression"]
                .as_str()
                .is_some_and(|l| l.contains("MIT"))
        );
        // Tests need it, the binary does not.
        assert!(named("proptest").is_none());
        assert!(
            components.len() > 100 && components.len() < 600,
            "{}",
            components.len()
        );
        let refs: BTreeSet<&str> = components.iter().filter_map(|c| c["bom-ref"].as_str()).collect();
        for dependency in made["dependencies"].as_array().expect("a list") {
            for on in dependency["dependsOn"].as_array().expect("a list") {
                assert!(on.as_str().is_some_and(|on| refs.contains(on)), "{on}");
            }
        }
    }
}
