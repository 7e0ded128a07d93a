//! Classes and key, ready to make plans.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, RwLock};

use crate::model::{DataClass, Digest};

use super::classes::{Classes, Pattern, Strategy, Treatment};
use super::detect::{Detector, Enabled};
use super::key::MaskKey;
use super::plan::MaskPlan;

/// How many sets of revealed classes are kept ready. Policies make few; a set beyond them is worked out each time.
const READY: usize = 64;

/// Detectors and strategies, ready to make plans.
#[derive(Debug)]
pub struct MaskEngine {
    treatments: BTreeMap<DataClass, Treatment>,
    detectors: BTreeMap<Detector, DataClass>,
    patterns: Vec<(DataClass, Pattern)>,
    names: BTreeSet<DataClass>,
    digest: Digest,
    key: Option<MaskKey>,
    nothing: Arc<Sight>,
    ready: RwLock<HashMap<BTreeSet<DataClass>, Arc<Sight>>>,
}

/// What one set of revealed classes means.
#[derive(Debug)]
pub(super) struct Sight {
    pub(super) revealed: BTreeSet<DataClass>,
    /// The detectors that are asked.
    pub(super) enabled: Enabled,
    rules: BTreeMap<Detector, Rule>,
    /// Otherwise nothing may pass.
    pub(super) usable: bool,
}

/// What becomes of what a detector finds.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) class: DataClass,
    pub(super) treatment: Treatment,
}

impl Sight {
    pub(super) fn rule(&self, detector: Detector) -> Option<&Rule> {
        self.rules.get(&detector)
    }
}

impl Default for MaskEngine {
    /// The shipped classes and a key of its own: tokens are the same within this engine only.
    fn default() -> Self {
        match Classes::shipped() {
            Ok(classes) => Self::build(classes, MaskKey::random().ok(), true),
            Err(error) => {
                tracing::error!(%error, "the shipped classes are unusable: every value is NULL");
                Self::unusable()
            }
        }
    }
}

impl MaskEngine {
    /// An engine without classes, which lets no value pass.
    pub(crate) fn unusable() -> Self {
        let none = Classes {
            treatments: BTreeMap::new(),
            detectors: BTreeMap::new(),
            patterns: Vec::new(),
        };
        Self::build(none, None, false)
    }

    /// An engine for these classes.
    #[must_use]
    pub fn new(classes: Classes, key: MaskKey) -> Self {
        Self::build(classes, Some(key), true)
    }

    fn build(classes: Classes, key: Option<MaskKey>, usable: bool) -> Self {
        let digest = classes.digest();
        let Classes {
            treatments,
            detectors,
            patterns,
        } = classes;
        let nothing = Arc::new(sight(&treatments, &detectors, BTreeSet::new(), usable));
        Self {
            names: treatments.keys().cloned().collect(),
            treatments,
            detectors,
            patterns,
            digest,
            key,
            nothing,
            ready: RwLock::default(),
        }
    }

    /// Every class that there is.
    #[must_use]
    pub const fn classes(&self) -> &BTreeSet<DataClass> {
        &self.names
    }

    /// Changes when anything that decides what is masked, or how, does; not with the key.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The plan for somebody who may see `revealed` as it is. Cheap: the meaning of a set is worked out once.
    #[must_use]
    pub fn plan(self: &Arc<Self>, revealed: &BTreeSet<DataClass>) -> MaskPlan {
        MaskPlan::new(Arc::clone(self), self.sight(revealed))
    }

    fn sight(&self, revealed: &BTreeSet<DataClass>) -> Arc<Sight> {
        if revealed.is_empty() {
            return Arc::clone(&self.nothing);
        }
        let known = self
            .ready
            .read()
            .ok()
            .and_then(|ready| ready.get(revealed).cloned());
        if let Some(known) = known {
            return known;
        }
        let usable = self.nothing.usable;
        let made = Arc::new(sight(&self.treatments, &self.detectors, revealed.clone(), usable));
        if let Ok(mut ready) = self.ready.write()
            && ready.len() < READY
        {
            ready.insert(revealed.clone(), Arc::clone(&made));
        }
        made
    }

    /// What somebody who is shown nothing sees.
    pub(super) const fn nothing(&self) -> &Arc<Sight> {
        &self.nothing
    }

    /// Patterns of classes that do not stay as they are.
    pub(super) fn patterns(&self) -> impl Iterator<Item = &(DataClass, Pattern)> {
        let stays = |class| self.treatment(class).strategy == Strategy::Keep;
        self.patterns.iter().filter(move |(class, _)| !stays(class))
    }

    pub(super) const fn key(&self) -> Option<&MaskKey> {
        self.key.as_ref()
    }

    /// What becomes of a value of `class`; one that nobody described is redacted.
    pub(super) fn treatment(&self, class: &DataClass) -> Treatment {
        self.treatments.get(class).copied().unwrap_or(Treatment::REDACT)
    }
}

fn sight(
    treatments: &BTreeMap<DataClass, Treatment>,
    detectors: &BTreeMap<Detector, DataClass>,
    revealed: BTreeSet<DataClass>,
    usable: bool,
) -> Sight {
    let mut rules = BTreeMap::new();
    for (detector, class) in detectors {
        let mut treatment = treatments.get(class).copied().unwrap_or(Treatment::REDACT);
        if revealed.contains(class) {
            treatment.strategy = Strategy::Keep;
        }
        let class = class.clone();
        rules.insert(*detector, Rule { class, treatment });
    }
    let kept = |rule: &Rule| rule.treatment.strategy == Strategy::Keep;
    // A key that may be seen is no reason to swallow what follows its first line. Other kept values are still found:
    // what they contain must not be taken for something else.
    if rules.get(&Detector::PemKey).is_some_and(kept) {
        rules.remove(&Detector::PemKey);
    }
    let enabled = if rules.values().all(kept) {
        Enabled::default()
    } else {
        rules.iter().fold(Enabled::default(), |set, (detector, rule)| {
            match rule.treatment.strategy {
                Strategy::Redact => set.with_early(*detector),
                Strategy::Null | Strategy::Partial | Strategy::Token | Strategy::Deny | Strategy::Keep => {
                    set.with(*detector)
                }
            }
        })
    };
    Sight {
        revealed,
        enabled,
        rules,
        usable,
    }
}
