//! Hashes over records: a chain, and a Merkle tree (the tree of RFC 6962, section 2.1).

use crate::model::Digest;

/// The chain's start for a boot.
pub(super) fn start(boot: &str) -> Digest {
    Digest::of_parts(&[b"interdict audit chain v1", boot.as_bytes()])
}

/// The chain after one more record.
pub(super) fn next(head: Digest, record: &[u8]) -> Digest {
    Digest::of_parts(&[head.as_bytes(), record])
}

/// A record's leaf.
pub(super) fn leaf(record: &[u8]) -> Digest {
    Digest::of_parts(&[&[0], record])
}

/// The root over leaves; of none, the digest of nothing.
pub(super) fn root(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => Digest::of(b""),
        [one] => *one,
        more => {
            // The largest power of two below the count.
            let half = more.len().next_power_of_two() / 2;
            let (left, right) = more.split_at(half);
            Digest::of_parts(&[&[1], root(left).as_bytes(), root(right).as_bytes()])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_that_of_rfc_6962() {
        // Certificate Transparency's own test vectors.
        let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).expect("hex");
        let leaves: Vec<Digest> = ["", "00", "10", "2021", "3031", "40414243"]
            .iter()
            .map(|l| leaf(&hex(l)))
            .collect();
        assert_eq!(
            root(&[]).to_string(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(
            root(&leaves[..1]).to_string(),
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
        );
        assert_eq!(
            root(&leaves[..3]).to_string(),
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"
        );
        assert_eq!(
            root(&leaves[..6]).to_string(),
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"
        );
    }
}
