//! Whether a tensor lies inside its storage, and its storage inside its record. libtorch 2.13 checks the first and not the
//! second: a storage that says more elements than its record has bytes reads, and writes, whatever follows on the heap.

/// Most dimensions. libtorch takes 64; so does every tensor that it saved.
pub const MAX_RANK: usize = 64;
/// Most bytes that a tensor may have by its shape; a dimension of stride 0 costs no storage.
pub const MAX_BYTES: u64 = 64 << 30;

/// Element types that a storage may have, and their bytes.
const TYPES: &[(&str, u8)] = &[
    ("ByteStorage", 1),
    ("CharStorage", 1),
    ("ShortStorage", 2),
    ("IntStorage", 4),
    ("LongStorage", 8),
    ("HalfStorage", 2),
    ("FloatStorage", 4),
    ("DoubleStorage", 8),
    ("ComplexHalfStorage", 4),
    ("ComplexFloatStorage", 8),
    ("ComplexDoubleStorage", 16),
    ("BoolStorage", 1),
    ("BFloat16Storage", 2),
    ("QInt8Storage", 1),
    ("QUInt8Storage", 1),
    ("QInt32Storage", 4),
    ("UInt16Storage", 2),
    ("UInt32Storage", 4),
    ("UInt64Storage", 8),
    ("Float8_e5m2Storage", 1),
    ("Float8_e4m3fnStorage", 1),
    ("Float8_e5m2fnuzStorage", 1),
    ("Float8_e4m3fnuzStorage", 1),
    ("Float8_e8m0fnuStorage", 1),
    ("Float4_e2m1fn_x2Storage", 1),
];

/// One element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element {
    /// Bytes of one.
    pub bytes: u8,
    /// Whether it means nothing without a scale.
    pub quantized: bool,
}

/// A run of elements; its record has exactly their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storage {
    /// Their type.
    pub element: Element,
    /// How many.
    pub count: u64,
}

impl Element {
    /// By the name that the pickle has under `torch`.
    pub fn of(name: &str) -> Option<Self> {
        let (_, bytes) = TYPES.iter().find(|(known, _)| *known == name)?;
        Some(Self { bytes: *bytes, quantized: name.starts_with('Q') })
    }
}

impl Storage {
    /// What a pickle says, held against its record's length; none where the archive has no such record.
    pub fn check(element: Element, count: i64, record: Option<u64>) -> Result<Self, String> {
        let count = u64::try_from(count).map_err(|_| format!("a storage of {count} elements"))?;
        let bytes = count.checked_mul(element.bytes.into()).filter(|bytes| i64::try_from(*bytes).is_ok());
        let bytes = bytes.ok_or_else(|| format!("a storage of {count} elements of {} bytes", element.bytes))?;
        match record {
            Some(length) if length == bytes => {}
            // libtorch reads no record for an empty storage.
            None if bytes == 0 => {}
            Some(length) => return Err(format!("a storage of {bytes} bytes, but its record has {length}")),
            None => return Err(format!("a storage of {bytes} bytes, but there is no record for it")),
        }
        Ok(Self { element, count })
    }

    /// Whether a view of it lies inside; the view's own bytes, by its shape.
    pub fn view(&self, offset: i64, sizes: &[i64], strides: &[i64]) -> Result<u64, String> {
        if sizes.len() != strides.len() || sizes.len() > MAX_RANK {
            return Err(format!("{} sizes and {} strides", sizes.len(), strides.len()));
        }
        let whole = |what: &str, n: i64| u64::try_from(n).map_err(|_| format!("a negative {what}: {n}"));
        let start = whole("offset", offset)?;
        let too_far = || "sizes or strides whose product passes 64 bits".to_owned();
        let (mut elements, mut last) = (1u64, start);
        for (size, stride) in sizes.iter().zip(strides) {
            let (size, stride) = (whole("size", *size)?, whole("stride", *stride)?);
            elements = elements.checked_mul(size).filter(|n| i64::try_from(*n).is_ok()).ok_or_else(too_far)?;
            let reach = size.saturating_sub(1).checked_mul(stride).ok_or_else(too_far)?;
            last = last.checked_add(reach).ok_or_else(too_far)?;
        }
        let end = if sizes.contains(&0) { start } else { last.checked_add(1).ok_or_else(too_far)? };
        if end > self.count {
            return Err(format!("it reaches element {end} of a storage of {}", self.count));
        }
        let bytes = elements.checked_mul(self.element.bytes.into()).ok_or_else(too_far)?;
        if bytes > MAX_BYTES {
            return Err(format!("{bytes} bytes by its shape; at most {MAX_BYTES} are allowed"));
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOATS: Element = Element { bytes: 4, quantized: false };

    #[test]
    fn a_storage_has_exactly_the_bytes_of_its_record() {
        assert!(Storage::check(FLOATS, 4, Some(16)).is_ok());
        assert!(Storage::check(FLOATS, 0, None).is_ok());
        for (count, record) in [
            (4, Some(15)),
            (4, Some(17)),
            (4, None),
            (-1, Some(4)),
            (i64::MAX, Some(16)),
            (1 << 62, Some(0)),
            (1 << 61, Some(0)),
        ] {
            assert!(Storage::check(FLOATS, count, record).is_err(), "{count} {record:?}");
        }
    }

    #[test]
    fn a_view_lies_inside() {
        let storage = Storage { element: FLOATS, count: 12 };
        for (offset, sizes, strides) in [
            (0, &[3i64, 4][..], &[4i64, 1][..]),
            (4, &[2, 4], &[4, 1]),
            (0, &[4, 3], &[1, 4]),
            (11, &[], &[]),
            (0, &[1000, 12], &[0, 1]),
            (12, &[0, 9], &[9, 1]),
        ] {
            assert!(storage.view(offset, sizes, strides).is_ok(), "{offset} {sizes:?} {strides:?}");
        }
        for (offset, sizes, strides) in [
            (0, &[13i64][..], &[1i64][..]),
            (1, &[12], &[1]),
            (-1, &[1], &[1]),
            (0, &[2], &[12]),
            (0, &[2], &[-1]),
            (0, &[-1], &[1]),
            (12, &[], &[]),
            (13, &[0], &[1]),
            (0, &[1 << 32, 1 << 32], &[0, 0]),
            (0, &[1 << 40], &[0]),
            (i64::MAX, &[2], &[i64::MAX]),
            (0, &[3, 3], &[i64::MAX, i64::MAX]),
            (0, &[2, 2], &[1]),
            (0, &[1; 65], &[1; 65]),
        ] {
            assert!(storage.view(offset, sizes, strides).is_err(), "{offset} {sizes:?} {strides:?}");
        }
    }
}
