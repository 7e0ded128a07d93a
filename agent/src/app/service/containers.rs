//! What a cgroup's path and the files of container runtimes say about it. Those files are root's own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Where runc keeps what it knows of each container, whatever its name.
const RUNC: &str = "/run/runc";
/// Where crun does.
const CRUN: &str = "/run/crun";
/// Where containerd keeps the bundles of a namespace's containers.
const CONTAINERD: &str = "/run/containerd/io.containerd.runtime.v2.task";
/// Where CRI-O and Podman keep bundles.
const STORAGE: [&str; 2] = [
    "/run/containers/storage/overlay-containers",
    "/var/lib/containers/storage/overlay-containers",
];
/// Where Docker keeps its containers.
const DOCKER: &str = "/var/lib/docker/containers";

type Labels = BTreeMap<String, String>;

/// The labels and annotations of the container that a cgroup (path below the mount) is; `None` where it is none.
pub(super) fn labels(cgroup: &str) -> Option<Labels> {
    if let Some(id) = container_id(cgroup) {
        let known = docker(&id)
            .into_iter()
            .chain(bundles(&id).into_iter().filter_map(|dir| annotations(&dir)));
        let labels: Labels = known.flatten().collect();
        if !labels.is_empty() {
            return Some(labels);
        }
    }
    runc(cgroup).or_else(|| crun(cgroup))
}

/// The id that a runtime gave to the container of a cgroup: 64 hexadecimal digits, in a scope's name or alone.
fn container_id(cgroup: &str) -> Option<String> {
    let name = cgroup.rsplit('/').next()?;
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let id = name.rsplit('-').next()?;
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (id.len() == 64 && id.bytes().all(hex)).then(|| id.to_owned())
}

fn bundles(id: &str) -> Vec<PathBuf> {
    let namespaces = fs::read_dir(CONTAINERD).into_iter().flatten().flatten();
    let containerd = namespaces.map(|namespace| namespace.path().join(id));
    let storage = STORAGE.iter().map(|dir| Path::new(dir).join(id).join("userdata"));
    containerd.chain(storage).collect()
}

/// The parts of OCI's `config.json` that matter here.
#[derive(Deserialize)]
struct Bundle {
    #[serde(default)]
    annotations: Labels,
}

fn annotations(bundle: &Path) -> Option<Labels> {
    let bundle: Bundle = read(&bundle.join("config.json"))?;
    Some(bundle.annotations)
}

fn docker(id: &str) -> Option<Labels> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Container {
        config: Config,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Config {
        labels: Option<Labels>,
    }
    let container: Container = read(&Path::new(DOCKER).join(id).join("config.v2.json"))?;
    container.config.labels
}

/// runc's `state.json`: its labels are the annotations and the bundle, as `key=value`.
fn runc(cgroup: &str) -> Option<Labels> {
    #[derive(Deserialize)]
    struct State {
        #[serde(default)]
        cgroup_paths: BTreeMap<String, PathBuf>,
        config: Config,
    }
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        labels: Vec<String>,
    }
    each(RUNC, "state.json", |state: State| {
        let is_it = state.cgroup_paths.values().any(|path| ends_with(path, cgroup));
        let pairs = state
            .config
            .labels
            .iter()
            .filter_map(|label| label.split_once('='));
        is_it.then(|| {
            pairs
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect()
        })
    })
}

/// crun's `status` names cgroup and bundle.
fn crun(cgroup: &str) -> Option<Labels> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Status {
        #[serde(default)]
        cgroup_path: PathBuf,
        bundle: PathBuf,
    }
    each(CRUN, "status", |status: Status| {
        let is_it = ends_with(&status.cgroup_path, cgroup);
        is_it.then(|| annotations(&status.bundle)).flatten()
    })
}

fn ends_with(path: &Path, cgroup: &str) -> bool {
    !cgroup.is_empty() && path.ends_with(cgroup)
}

fn each<T: DeserializeOwned>(dir: &str, file: &str, found: impl Fn(T) -> Option<Labels>) -> Option<Labels> {
    let containers = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut states = containers.filter_map(|entry| read(&entry.path().join(file)));
    states.find_map(found)
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let meta = fs::metadata(path).ok()?;
    if meta.len() > MAX_FILE {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// The pod whose own cgroup this is, by its uid. Both of kubelet's drivers: `kubepods-burstable-podUID.slice` with `_` for
/// `-`, and `burstable/podUID`.
pub(super) fn pod_of(cgroup: &str) -> Option<String> {
    if !cgroup.split('/').any(|part| part.contains("kubepods")) {
        return None;
    }
    let name = cgroup.rsplit('/').next()?;
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod")?.1.replace('_', "-"),
        None => name.strip_prefix("pod")?.to_owned(),
    };
    // A UUID, or the digest of a static pod's manifest.
    let fits = |b: u8| b.is_ascii_hexdigit() || b == b'-';
    let long = matches!(uid.len(), 32 | 36);
    (long && uid.bytes().all(fits)).then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "7b1f2a3c-0d4e-4f56-8a9b-0c1d2e3f4a5b";

    #[test]
    fn pods_are_found_in_the_paths_of_both_drivers() {
        let escaped = UID.replace('-', "_");
        let systemd =
            format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{escaped}.slice");
        let kind = format!("kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{escaped}.slice");
        let table = [
            (systemd.clone(), Some(UID)),
            (format!("kubepods.slice/kubepods-pod{escaped}.slice"), Some(UID)),
            (kind, Some(UID)),
            (format!("kubepods/besteffort/pod{UID}"), Some(UID)),
            (format!("kubepods/pod{UID}"), Some(UID)),
            // The pod's own cgroup, not its containers' (they lie in it), nor what somebody named alike elsewhere.
            (format!("{systemd}/cri-containerd-{}.scope", "a".repeat(64)), None),
            (format!("user.slice/pod{UID}"), None),
            ("kubepods.slice/kubepods-burstable.slice".into(), None),
        ];
        for (path, expected) in table {
            assert_eq!(pod_of(&path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn containers_have_ids_of_64_digits() {
        let id = "0123456789abcdef".repeat(4);
        for path in [
            format!("system.slice/docker-{id}.scope"),
            format!("kubepods/podx/{id}"),
            format!("a/crio-{id}.scope"),
        ] {
            assert_eq!(container_id(&path), Some(id.clone()), "{path}");
        }
        assert_eq!(container_id("system.slice/docker-abc.scope"), None);
    }
}
