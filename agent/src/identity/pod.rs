//! Pods of Kubernetes: whoever the projected service account token of each one vouches for, where that token is of the very pod
//! that the kernel names (by the cgroup of the process). A token of another pod is not accepted, whoever put it there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;

use crate::model::{Group, Principal};

use super::binding::Binding;
use super::token::IdentityError;

/// A pod, as the Kubernetes API and its cgroup name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodName {
    /// Its uid.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The service account that it runs as.
    pub service_account: String,
}

impl std::fmt::Display for PodName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} ({})", self.namespace, self.name, self.uid)
    }
}

/// The principal of a token whose signature, audience and times hold, where it is this pod's: the service account, with the
/// groups that Kubernetes gives every service account beside those of the token.
///
/// # Errors
/// Where the token is bound to no pod, or to another one.
pub(super) fn of_pod(
    principal: Principal,
    claims: &Value,
    pod: &PodName,
) -> Result<Principal, IdentityError> {
    let issuer = principal.issuer.clone();
    let issuer = || issuer.clone().unwrap_or_else(|| "".into());
    // The claims of tokens that are bound to a pod (Kubernetes: "Managing Service Accounts", bound service account tokens).
    let text = |path: &[&str]| {
        let found = path.iter().try_fold(claims, |value, name| value.get(name));
        found.and_then(Value::as_str).unwrap_or_default()
    };
    let uid = text(&["kubernetes.io", "pod", "uid"]);
    let namespace = text(&["kubernetes.io", "namespace"]);
    let account = text(&["kubernetes.io", "serviceaccount", "name"]);
    if uid.is_empty() || namespace.is_empty() || account.is_empty() {
        return Err(IdentityError::NoPod { issuer: issuer() });
    }
    let name = text(&["kubernetes.io", "pod", "name"]);
    let fits = (uid, namespace, account) == (&*pod.uid, &*pod.namespace, &*pod.service_account)
        && name == pod.name
        && text(&["sub"]) == format!("system:serviceaccount:{namespace}:{account}");
    if !fits {
        let short = |text: &str| text.chars().take(64).collect::<String>();
        return Err(IdentityError::OtherPod {
            issuer: issuer(),
            claimed: format!("{}/{} ({})", short(namespace), short(name), short(uid)),
            pod: pod.to_string(),
        });
    }
    let mut groups = principal.groups;
    groups.extend([
        Group::new("system:serviceaccounts"),
        Group::new(format!("system:serviceaccounts:{namespace}")),
    ]);
    Ok(Principal {
        groups,
        display: format!("{namespace}/{name}"),
        ..principal
    })
}

/// One pod of a workload.
#[derive(Debug)]
struct Pod {
    uid: String,
    /// The directory of its cgroup.
    cgroup: PathBuf,
    binding: Arc<Binding>,
}

/// Who stands behind each pod of a workload.
#[derive(Debug)]
pub struct PodBindings {
    pods: RwLock<Vec<Pod>>,
    /// Which pod a cgroup was found in.
    known: RwLock<BTreeMap<u64, String>>,
    /// Whether the cgroup with this id lies at or below a directory.
    is_in: fn(&Path, u64) -> bool,
}

impl PodBindings {
    /// Of no pod yet; `is_in` says whether the cgroup with an id lies at or below a directory.
    #[must_use]
    pub fn new(is_in: fn(&Path, u64) -> bool) -> Self {
        Self {
            pods: RwLock::default(),
            known: RwLock::default(),
            is_in,
        }
    }

    /// From now on `binding` stands behind whatever is in `cgroup`, the pod's own.
    pub fn add(&self, uid: &str, cgroup: &Path, binding: Arc<Binding>) {
        let mut pods = self.pods.write().unwrap_or_else(PoisonError::into_inner);
        pods.retain(|pod| pod.uid != uid);
        pods.push(Pod {
            uid: uid.to_owned(),
            cgroup: cgroup.to_owned(),
            binding,
        });
    }

    /// Nobody stands behind it any more.
    pub fn remove(&self, uid: &str) {
        let mut pods = self.pods.write().unwrap_or_else(PoisonError::into_inner);
        pods.retain(|pod| pod.uid != uid);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, of| of != uid);
    }

    /// Who stands behind a process, by the id of its cgroup; `None` where it is in no pod that is known.
    pub(super) fn of(&self, cgroup: u64) -> Option<Arc<Binding>> {
        let pods = self.pods.read().unwrap_or_else(PoisonError::into_inner);
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let uid = known.get(&cgroup).cloned();
        drop(known);
        if let Some(pod) = uid.and_then(|uid| pods.iter().find(|pod| pod.uid == uid)) {
            return Some(Arc::clone(&pod.binding));
        }
        let pod = pods.iter().find(|pod| (self.is_in)(&pod.cgroup, cgroup))?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(cgroup, pod.uid.clone());
        Some(Arc::clone(&pod.binding))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::model::{IssuerName, PrincipalKind};

    use super::*;

    fn pod() -> PodName {
        PodName {
            uid: "7b1f2a3c".into(),
            namespace: "tools".into(),
            name: "mcp-x7k2m".into(),
            service_account: "agent".into(),
        }
    }

    fn claims() -> Value {
        json!({"sub": "system:serviceaccount:tools:agent", "kubernetes.io": {
            "namespace": "tools", "node": {"name": "node-1", "uid": "n"},
            "pod": {"name": "mcp-x7k2m", "uid": "7b1f2a3c"}, "serviceaccount": {"name": "agent", "uid": "s"}}})
    }

    fn judged(claims: &Value) -> Result<Principal, IdentityError> {
        let principal = Principal {
            kind: PrincipalKind::User,
            issuer: Some(IssuerName::from("cluster")),
            subject: "system:serviceaccount:tools:agent".into(),
            display: "x".into(),
            groups: [].into(),
            expires_at: None,
        };
        of_pod(principal, claims, &pod())
    }

    #[test]
    fn only_the_pods_own_token_vouches_for_it() {
        let principal = judged(&claims()).expect("its own");
        assert_eq!(principal.key(), "cluster/system:serviceaccount:tools:agent");
        assert_eq!(principal.display, "tools/mcp-x7k2m");
        assert!(
            principal
                .groups
                .contains(&Group::from("system:serviceaccounts:tools"))
        );
        let with = |path: &[&str], value: Value| {
            let mut claims = claims();
            let at = path.iter().fold(&mut claims, |value, name| &mut value[*name]);
            *at = value;
            judged(&claims).expect_err("another's")
        };
        for (path, value) in [
            (&["kubernetes.io", "pod", "uid"][..], "other"),
            (&["kubernetes.io", "pod", "name"], "web-1"),
            (&["kubernetes.io", "namespace"], "prod"),
            (&["kubernetes.io", "serviceaccount", "name"], "admin"),
            (&["sub"], "system:serviceaccount:tools:admin"),
        ] {
            let error = with(path, value.into());
            assert!(
                matches!(error, IdentityError::OtherPod { .. }),
                "{path:?}: {error}"
            );
        }
        for path in [&["kubernetes.io"][..], &["kubernetes.io", "pod"]] {
            let error = with(path, Value::Null);
            assert!(matches!(error, IdentityError::NoPod { .. }), "{path:?}: {error}");
        }
    }

    #[test]
    fn a_process_is_its_pods() {
        let pods = PodBindings::new(|directory, id| directory.ends_with(format!("pod{}", id / 10)));
        let binding = |name: &str| {
            Arc::new(Binding::fixed(Principal {
                kind: PrincipalKind::Workload,
                issuer: None,
                subject: name.into(),
                display: name.into(),
                groups: [].into(),
                expires_at: None,
            }))
        };
        pods.add("a", Path::new("/x/pod1"), binding("a"));
        pods.add("b", Path::new("/x/pod2"), binding("b"));
        let who = |id| {
            let found = pods.of(id)?;
            found.current(crate::clock::now()).ok().map(|p| p.subject.clone())
        };
        assert_eq!(
            (who(11), who(12), who(25)),
            (Some("a".into()), Some("a".into()), Some("b".into()))
        );
        assert_eq!(who(31), None);
        pods.remove("a");
        assert_eq!((who(11), who(25)), (None, Some("b".into())));
    }
}
