//! The usual number, read in one pass: a sign, up to 19 digits with a point among them, and a comma or the end of the array
//! behind. Every function gives the element's bytes and the text behind it, or nothing: whatever is longer, has an exponent, is
//! no number or does not fit the type is for the careful way, which also knows what to say about it.
//!
//! What is given is the very value that the careful way would give.

use half::{bf16, f16};

/// A number that is `digits` ÷ 10^`places`.
struct Decimal {
    negative: bool,
    digits: u64,
    places: usize,
}

/// An element of `N` bytes, and the text behind it.
pub(super) type Read<'a, const N: usize> = Option<([u8; N], &'a [u8])>;

/// So many digits always fit into a `u64`.
const MOST_DIGITS: usize = 19;

/// Every one of them is exact in an `f64`, as all powers up to 10^22 are.
const POWERS: [f64; MOST_DIGITS + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19];

pub(super) fn uint8(text: &[u8]) -> Read<'_, 1> {
    whole(text).and_then(|(value, rest)| Some((u8::try_from(value).ok()?.to_le_bytes(), rest)))
}

pub(super) fn int8(text: &[u8]) -> Read<'_, 1> {
    whole(text).and_then(|(value, rest)| Some((i8::try_from(value).ok()?.to_le_bytes(), rest)))
}

pub(super) fn int16(text: &[u8]) -> Read<'_, 2> {
    whole(text).and_then(|(value, rest)| Some((i16::try_from(value).ok()?.to_le_bytes(), rest)))
}

pub(super) fn int32(text: &[u8]) -> Read<'_, 4> {
    whole(text).and_then(|(value, rest)| Some((i32::try_from(value).ok()?.to_le_bytes(), rest)))
}

pub(super) fn int64(text: &[u8]) -> Read<'_, 8> {
    whole(text).map(|(value, rest)| (value.to_le_bytes(), rest))
}

pub(super) fn fp16(text: &[u8]) -> Read<'_, 2> {
    let (value, rest) = double(text)?;
    f16_of(value).is_finite().then_some((to_fp16(value), rest))
}

pub(super) fn bf16(text: &[u8]) -> Read<'_, 2> {
    let (value, rest) = double(text)?;
    bf16_of(value).is_finite().then_some((to_bf16(value), rest))
}

pub(super) fn fp64(text: &[u8]) -> Read<'_, 8> {
    double(text).map(|(value, rest)| (value.to_le_bytes(), rest))
}

/// By way of an `f64`, and rounded once all the same. The digits as an `f64` and the division are off by half a unit in the
/// last place each, so by less than two together; what is further than that from the middle between two `f32`s lies on the
/// same side of it as the number itself. All of them are 0 or between 10^-19 and 10^19, where an `f32` has all its bits.
#[inline]
pub(super) fn fp32(text: &[u8]) -> Read<'_, 4> {
    /// The bits that an `f64` has more, where they stand for one half.
    const MIDDLE: u64 = 1 << 28;
    const NEAR: u64 = 4;
    let (Decimal { negative, digits, places }, rest) = decimal(text)?;
    let wide = digits as f64 / POWERS.get(places)?;
    let beyond = wide.to_bits() & (2 * MIDDLE - 1);
    let value = if negative { -wide } else { wide } as f32;
    (beyond.abs_diff(MIDDLE) > NEAR).then_some((value.to_le_bytes(), rest))
}

pub(super) fn to_fp16(value: f64) -> [u8; 2] {
    f16_of(value).to_le_bytes()
}

pub(super) fn to_bf16(value: f64) -> [u8; 2] {
    bf16_of(value).to_le_bytes()
}

pub(super) fn f16_of(value: f64) -> f16 {
    f16::from_f32(to_odd(value))
}

pub(super) fn bf16_of(value: f64) -> bf16 {
    bf16::from_f32(to_odd(value))
}

/// Rounded to odd: what is not exact gets a last bit of 1. Whoever rounds that to a still shorter number rounds as if from the
/// whole value; `half` itself goes by way of an `f32`, or forgets the low bits.
fn to_odd(value: f64) -> f32 {
    let near = value as f32;
    let wide = f64::from(near);
    if wide == value || value.is_nan() {
        return near;
    }
    let toward_zero = if wide.abs() > value.abs() { near.to_bits() - 1 } else { near.to_bits() };
    f32::from_bits(toward_zero | 1)
}

/// Exact: both the digits and the power are, and a division rounds once.
fn double(text: &[u8]) -> Option<(f64, &[u8])> {
    let (Decimal { negative, digits, places }, rest) = decimal(text)?;
    let value = digits as f64 / POWERS.get(places)?;
    (digits <= 1 << f64::MANTISSA_DIGITS).then_some((if negative { -value } else { value }, rest))
}

fn whole(text: &[u8]) -> Option<(i64, &[u8])> {
    let (Decimal { negative, digits, places }, rest) = decimal(text)?;
    let value = i64::try_from(digits).ok().filter(|_| places == 0)?;
    Some((if negative { -value } else { value }, rest))
}

/// As JSON has it: no zero in front of other digits, and a digit on both sides of the point.
#[inline]
fn decimal(text: &[u8]) -> Option<(Decimal, &[u8])> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let (mut digits, mut point, mut end) = (0u64, None, 0);
    for byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 {
            // Goes round where there are too many digits; that is not used.
            digits = digits.wrapping_mul(10).wrapping_add(digit.into());
        } else if *byte == b'.' && point.is_none() {
            point = Some(end);
        } else {
            break;
        }
        end += 1;
    }
    let (ahead, places) = match point {
        Some(point) => (point, end - point - 1),
        None => (end, 0),
    };
    let rest = text.get(end..)?;
    let ends = matches!(rest, [b',' | b']' | b' ' | b'\n' | b'\r' | b'\t', ..]);
    let padded = ahead > 1 && text.first() == Some(&b'0');
    let fits = ahead > 0 && ahead + places <= MOST_DIGITS && (places > 0) == point.is_some();
    (ends && fits && !padded).then_some((Decimal { negative, digits, places }, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the lane makes of it, and what the standard library does.
    fn both(text: &str) -> [(Option<u64>, u64); 2] {
        let list = format!("{text},");
        let single = fp32(list.as_bytes()).map(|(bytes, rest)| (u64::from(u32::from_le_bytes(bytes)), rest));
        let double = fp64(list.as_bytes()).map(|(bytes, rest)| (u64::from_le_bytes(bytes), rest));
        let whole = |read: Option<(u64, &[u8])>| {
            read.map(|(bits, rest)| {
                assert_eq!(rest, b",", "{text}");
                bits
            })
        };
        let (exact32, exact64): (f32, f64) = (text.parse().unwrap(), text.parse().unwrap());
        [(whole(single), u64::from(exact32.to_bits())), (whole(double), exact64.to_bits())]
    }

    #[test]
    fn the_usual_number_is_taken_and_the_unusual_is_left() {
        for text in ["0", "-0", "0.0", "-0.000", "7", "-12.25", "0.1", "123456789.123", "9999999999999999999"] {
            let [(single, exact), _] = both(text);
            assert_eq!(single, Some(exact), "{text}");
        }
        for text in [
            "01,",
            "-01,",
            "1.,",
            ".5,",
            "-,",
            "1e5,",
            "1E5,",
            "1.5e-3,",
            "+1,",
            "1",
            "12345678901234567890,",
            "1x,",
            ",",
            "",
        ] {
            assert!(fp32(text.as_bytes()).is_none() && fp64(text.as_bytes()).is_none(), "{text:?} was taken");
        }
        assert_eq!(int64(b"-9223372036854775807]"), Some(((-i64::MAX).to_le_bytes(), &b"]"[..])));
        for text in ["9223372036854775808,", "-9223372036854775808,", "1.0,", "0.5,"] {
            assert!(int64(text.as_bytes()).is_none(), "{text:?} was taken");
        }
        assert!(uint8(b"256,").is_none() && uint8(b"-1,").is_none() && int8(b"-129,").is_none());
        assert_eq!(uint8(b"255 ,"), Some(([255], &b" ,"[..])));
        assert!(fp16(b"65520,").is_none() && fp16(b"65519,").is_some());
        // 2^24 + 1 lies in the middle between two of them: which one is nearest is not for the lane to say.
        assert!(fp32(b"16777217,").is_none() && fp32(b"16777217.0001,").is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn a_value_is_the_one_that_the_standard_library_gives(digits in any::<u64>(), places in 0usize..19, cut in 0u32..20, near in any::<u32>()) {
            // Numbers of every length; and such as lie close to the middle between two singles.
            let digits = digits / 10u64.saturating_pow(cut.min(19));
            let text = format!("{digits:0>width$}", width = places + 1);
            let (ahead, behind) = text.split_at(text.len() - places);
            let plain = if places == 0 { ahead.to_owned() } else { format!("{ahead}.{behind}") };
            let low = f32::from_bits(near >> 3 | 0x3800_0000);
            let middle = (f64::from(low) + f64::from(low.next_up())) / 2.0;
            let texts = [plain.clone(), format!("-{plain}"), format!("{middle}"), format!("{middle:.18}"), format!("{low}"), format!("{}", f64::from(low))];
            for text in texts.iter().filter(|text| !text.contains(['e', 'N', 'i'])) {
                for (lane, exact) in both(text) {
                    prop_assert!(lane.is_none_or(|bits| bits == exact), "{}: {:?} and not {}", text, lane, exact);
                }
            }
        }
    }
}
