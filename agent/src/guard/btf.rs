//! Where a kernel structure keeps a field, from the kernel's own BTF (Documentation/bpf/btf.rst).

use aya::Btf;

/// The kernel's types: as aya reads them, and as bytes. Reading them takes a while: once for each start.
#[derive(Debug)]
pub(super) struct Types {
    /// `None` where there are none, or aya cannot read them.
    pub(super) btf: Option<Btf>,
    raw: Vec<u8>,
}

impl Types {
    /// Of the running kernel.
    pub(super) fn read() -> Self {
        let raw = std::fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default();
        let btf = Btf::from_sys_fs();
        if let Err(error) = &btf {
            tracing::debug!(%error, "the kernel's types cannot be read");
        }
        Self { btf: btf.ok(), raw }
    }

    /// Where each member is in its structure, in bytes; see [`member_offsets`].
    pub(super) fn offsets(&self, wanted: &[(&str, &str)]) -> Vec<Option<u32>> {
        member_offsets(&self.raw, wanted)
    }
}

/// What a structure (`struct` or `union`) is called in `kind`.
const KIND_STRUCT: u32 = 4;
const MAGIC: u16 = 0xeb9f;

/// The offset in bytes of each member in its structure; `None` where the kernel does not say, or keeps it as a bit field.
/// Anonymous members are not searched.
fn member_offsets(btf: &[u8], wanted: &[(&str, &str)]) -> Vec<Option<u32>> {
    let mut found = vec![None; wanted.len()];
    // What was found before an end that does not fit is kept: each is a whole answer.
    let _torn = collect(btf, wanted, &mut found);
    found
}

fn collect(btf: &[u8], wanted: &[(&str, &str)], found: &mut [Option<u32>]) -> Option<()> {
    let header = Header::read(btf)?;
    let mut at = header.types;
    while at < header.types_end {
        let (name, info) = (word(btf, at)?, word(btf, at + 4)?);
        let (kind, count) = ((info >> 24) & 0x1f, usize::try_from(info & 0xffff).ok()?);
        if kind == KIND_STRUCT {
            for ((structure, member), found) in wanted.iter().zip(found.iter_mut()) {
                if found.is_none() && header.is_named(btf, name, structure) {
                    *found = member_in(btf, &header, at + 12, count, info >> 31 == 1, member);
                }
            }
        }
        at += 12 + trailer(kind, count)?;
    }
    Some(())
}

fn member_in(
    btf: &[u8],
    header: &Header,
    start: usize,
    count: usize,
    bits: bool,
    member: &str,
) -> Option<u32> {
    (0..count).map(|n| start + n * 12).find_map(|at| {
        let (name, offset) = (word(btf, at)?, word(btf, at + 8)?);
        if !header.is_named(btf, name, member) {
            return None;
        }
        let (size, offset) = if bits {
            (offset >> 24, offset & 0x00ff_ffff)
        } else {
            (0, offset)
        };
        (size == 0 && offset % 8 == 0).then_some(offset / 8)
    })
}

/// Bytes that follow a type of this kind (btf.rst, section 2.2).
fn trailer(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        1 | 14 | 17 => 4,              // INT, VAR, DECL_TAG
        3 => 12,                       // ARRAY
        4 | 5 | 15 | 19 => count * 12, // STRUCT, UNION, DATASEC, ENUM64
        6 | 13 => count * 8,           // ENUM, FUNC_PROTO
        2 | 7..=12 | 16 | 18 => 0,     // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG
        _ => return None,
    })
}

struct Header {
    types: usize,
    types_end: usize,
    strings: usize,
}

impl Header {
    fn read(btf: &[u8]) -> Option<Self> {
        if u16::from_le_bytes(btf.get(..2)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let field = |at| word(btf, at).and_then(|w| usize::try_from(w).ok());
        let (length, types, types_len, strings) = (field(4)?, field(8)?, field(12)?, field(16)?);
        Some(Self {
            types: length + types,
            types_end: length + types + types_len,
            strings: length + strings,
        })
    }

    fn is_named(&self, btf: &[u8], offset: u32, name: &str) -> bool {
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|at| btf.get(self.strings + at..));
        let rest = rest.and_then(|rest| rest.strip_prefix(name.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    }
}

fn word(btf: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(btf.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member_offset(btf: &[u8], structure: &str, member: &str) -> Option<u32> {
        member_offsets(btf, &[(structure, member)]).into_iter().next()?
    }

    #[test]
    fn garbage_has_no_members() {
        assert_eq!(member_offset(b"", "task_struct", "tgid"), None);
        assert_eq!(member_offset(&[0xff; 64], "task_struct", "tgid"), None);
    }

    #[test]
    fn the_running_kernel_says_where_tgid_is() {
        let Ok(btf) = std::fs::read("/sys/kernel/btf/vmlinux") else {
            return;
        };
        let (pid, tgid) = (
            member_offset(&btf, "task_struct", "pid"),
            member_offset(&btf, "task_struct", "tgid"),
        );
        assert_eq!(pid.map(|at| at + 4), tgid, "tgid follows pid in task_struct");
        assert_eq!(member_offset(&btf, "task_struct", "no_such_field"), None);
    }
}
