//! What LVM wrote on a disk, read without LVM: the label, and the metadata of the group.
//!
//! ```text
//!   sector 0..3   label: LABELONE, checksum, where the header of the disk is
//!                 header of the disk: its UUID, data areas, metadata areas, "in a group"
//!   an area       header of the metadata, one sector: where in the ring the text of now lies
//!                 a ring of texts, each a commit; the file format of vgcfgbackup(8)
//! ```
//!
//! The layout is LVM's own, unchanged since 2002 (lib/format_text/layout.h, lib/label/label.h).
//! Only what is needed to know whose disk it is gets read: nothing of the logical volumes.

mod text;

pub(crate) use text::{Member, Metadata};

/// How much of the start of a disk holds its label.
pub(crate) const HEAD: usize = 4096;
/// The header of the metadata, where its ring of texts also begins.
pub(crate) const HEADER: usize = SECTOR;

const SECTOR: usize = 512;
const MAGIC: &[u8] = b" LVM2 x[5A%r0N*>";
/// The start value of all of LVM's checksums.
const INITIAL: u32 = 0xf597_a6cf;
/// PV_EXT_USED: the disk is in a group, also where it bears none of its metadata.
const USED: u32 = 1;
/// RAW_LOCN_IGNORED: the text there is not kept up.
const IGNORED: u32 = 1;

/// What a disk's label says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Label {
    /// The disk's UUID, without hyphens.
    pub(crate) uuid: String,
    pub(crate) used: bool,
    /// The metadata areas.
    pub(crate) areas: Vec<Area>,
}

/// A metadata area: where on the disk, and how large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Area {
    pub(crate) start: u64,
    pub(crate) size: u64,
}

/// Where in an area the text of now lies, and its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    offset: u64,
    pub(crate) size: u64,
    checksum: u32,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// LVM's CRC-32: the usual polynomial, without a final inversion.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(INITIAL, |crc, byte| {
        (crc >> 8) ^ TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)]
    })
}

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte: u32 = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte, 0);
        while bit < 8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
};

/// The label in the first sectors of a disk, if it has one that is whole.
pub(crate) fn label(head: &[u8]) -> Option<Label> {
    head.chunks_exact(SECTOR)
        .take(4)
        .enumerate()
        .find_map(|(number, sector)| {
            let here = sector.starts_with(b"LABELONE") && sector[24..32] == *b"LVM2 001";
            let whole =
                long(sector, 8)? == number as u64 && word(sector, 16)? == checksum(&sector[20..]);
            (here && whole).then(|| header(sector))?
        })
}

/// The header of the disk, in the sector of its label.
fn header(sector: &[u8]) -> Option<Label> {
    let at = usize::try_from(word(sector, 20)?).ok()?;
    let uuid = sector.get(at..at.checked_add(32)?)?;
    let uuid = String::from_utf8(uuid.to_vec()).ok()?;
    let mut at = at + 40;
    // Two lists, each ended by an entry of zeros: the data areas, then those of metadata.
    let mut list = || {
        let mut areas = Vec::new();
        loop {
            let (start, size) = (long(sector, at)?, long(sector, at + 8)?);
            at += 16;
            if start == 0 {
                return Some(areas);
            }
            areas.push(Area { start, size });
        }
    };
    list()?;
    let areas = list()?;
    // An extension that came in 2012; zeros before it was there.
    let (version, flags) = (word(sector, at)?, word(sector, at + 4)?);
    Some(Label {
        uuid,
        used: version >= 2 && flags & USED != 0,
        areas,
    })
}

/// The text of now, by the header of a metadata area; none where nothing was ever written, or
/// where it is not kept up.
///
/// # Errors
/// Why the header cannot be read.
pub(crate) fn location(header: &[u8]) -> Result<Option<Location>, &'static str> {
    let sector = header.get(..SECTOR).ok_or("it is cut off")?;
    if sector[4..20] != *MAGIC {
        return Err("it has no header");
    }
    if word(sector, 0) != Some(checksum(&sector[4..])) {
        return Err("its header is damaged");
    }
    let at = |at| long(sector, at).unwrap_or(0);
    let location = Location {
        offset: at(40),
        size: at(48),
        checksum: word(sector, 56).unwrap_or(0),
    };
    let flags = word(sector, 60).unwrap_or(0);
    Ok((location.offset != 0 && location.size != 0 && flags & IGNORED == 0).then_some(location))
}

impl Location {
    /// The parts of the disk that hold the text, in order: it may run over the end of the ring.
    ///
    /// # Errors
    /// When it cannot lie there.
    pub(crate) fn parts(&self, area: Area) -> Result<Vec<(u64, u64)>, &'static str> {
        let begin = HEADER as u64;
        let ring = area.size.saturating_sub(begin);
        if self.offset < begin || self.offset >= area.size || self.size > ring {
            return Err("its header points beyond it");
        }
        let first = self.size.min(area.size - self.offset);
        let parts = [
            (area.start + self.offset, first),
            (area.start + begin, self.size - first),
        ];
        Ok(parts.into_iter().filter(|(_, size)| *size > 0).collect())
    }

    /// The text read from there.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(crate) fn read(&self, bytes: &[u8]) -> Result<Metadata, &'static str> {
        if checksum(bytes) != self.checksum {
            return Err("its text is damaged");
        }
        Metadata::parse(&String::from_utf8_lossy(bytes)).ok_or("its text is not understood")
    }
}

/// The whole of a UUID as it stands in a label, without the hyphens of the text.
fn bare(uuid: &str) -> String {
    uuid.replace('-', "")
}

#[cfg(test)]
pub(crate) mod tests;
