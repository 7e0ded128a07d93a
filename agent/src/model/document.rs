//! A structured value (the arguments of a tool, the body of a request) as policies read it.
//!
//! A path is the names from the outside in, in lower case, with `/` between them (`~1` is a slash within a name, `~0` a
//! tilde, as in RFC 6901); an array adds the position of the item. Lists also exist under the path with `*` for the
//! positions: `items/*/sku` is the set of all of them. Lower case, because some servers ignore it: `DryRun` is `dryrun`.

use std::collections::{BTreeMap, BTreeSet};

/// The values of a document by type and path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// Texts, and all numbers as they are written in canonical form.
    pub texts: BTreeMap<String, String>,
    /// Numbers, rounded down to whole ones within 64 bits. Texts that are whole numbers too, as many servers take them.
    pub numbers: BTreeMap<String, i64>,
    /// Booleans. Texts that say `true` or `false` too.
    pub flags: BTreeMap<String, bool>,
    /// All texts of a list, by the path with `*` for positions.
    pub lists: BTreeMap<String, BTreeSet<String>>,
    /// Every path that exists, those of objects, lists and nulls too.
    pub names: BTreeSet<String>,
}
