use proptest::prelude::*;

use half::f16;

use super::*;

fn shape(dims: &[u64]) -> Shape {
    Shape::new(dims.to_vec()).unwrap()
}

fn parse(text: &str, dtype: DType, dims: &[u64]) -> Result<Vec<u8>, NumberError> {
    let raw: &RawValue = serde_json::from_str(text).unwrap();
    read(raw, dtype, &shape(dims))
}

fn text_of(data: &[u8], dtype: DType) -> String {
    let mut out = Vec::new();
    write(data, dtype, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn flat_and_nested_say_the_same() {
    let good: &[(&str, &[u64])] = &[
        ("[1,2,3,4,5,6]", &[2, 3]),
        ("[[1,2,3],[4,5,6]]", &[2, 3]),
        (" [ [ [1 , 2,3] ] ,\n[[4,5,6]] ] ", &[2, 1, 3]),
        ("[1,2,3,4,5,6]", &[6]),
        ("[[[1],[2],[3],[4],[5],[6]]]", &[1, 6, 1]),
    ];
    for (text, dims) in good {
        assert_eq!(parse(text, DType::Uint8, dims), Ok(vec![1, 2, 3, 4, 5, 6]), "{text}");
    }
    assert_eq!(parse("7", DType::Int16, &[]), Ok(vec![7, 0]));
    assert_eq!(parse("[7]", DType::Int16, &[]), Ok(vec![7, 0]));
    let empty: &[(&str, &[u64])] =
        &[("[]", &[0]), ("[]", &[2, 0]), ("[[],[]]", &[2, 0]), ("[]", &[0, 2]), ("[[],[]]", &[2, 0, 3])];
    for (text, dims) in empty {
        assert_eq!(parse(text, DType::Fp32, dims), Ok(vec![]), "{text} as {dims:?}");
    }
}

#[test]
fn what_disagrees_with_the_shape_is_refused() {
    let bad: &[(&str, &[u64])] = &[
        ("[[1,2,3],[4,5]]", &[2, 3]),
        ("[[1,2],[3,4],[5,6]]", &[2, 3]),
        ("[[1,2,3],4,5,6]", &[2, 3]),
        ("[1,[2,3],[4,5,6]]", &[2, 3]),
        ("[[[1,2,3],[4,5,6]]]", &[2, 3]),
        ("[[1,2,3,4,5,6]]", &[6]),
        ("[[1,2],[3,4,5,6]]", &[2, 3]),
        ("[[1,2,3,4],[5,6]]", &[2, 3]),
        ("[1,2,3,4,5]", &[2, 3]),
        ("[1,2,3,4,5,6,7]", &[2, 3]),
        ("[[[1,2,3,4,5,6]]]", &[1, 2, 3]),
        ("[[1,2,3],[4,5,6]]", &[1, 2, 3]),
        ("[]", &[1]),
        ("[]", &[]),
        ("[[1]]", &[]),
        ("[1,2]", &[]),
        ("1", &[1]),
        ("[[]]", &[2, 0]),
        ("[[],[],[]]", &[2, 0]),
        ("[[]]", &[0]),
        ("[[]]", &[0, 2]),
        ("[[[]],[]]", &[2, 0]),
        ("{}", &[1]),
        ("[{\"a\":[1]}]", &[1]),
        ("null", &[1]),
        ("\"1\"", &[1]),
    ];
    for (text, dims) in bad {
        assert!(parse(text, DType::Fp32, dims).is_err(), "{text} passed as {dims:?}");
    }
}

#[test]
fn every_type_has_its_range() {
    let bad: &[(DType, &[&str])] = &[
        (DType::Bool, &["2", "-1", "1.0", "null", "\"true\"", "[]"]),
        (DType::Uint8, &["256", "300", "-1", "1.5", "1e2", "true", "\"1\"", "null", "99999999999999999999999"]),
        (DType::Int8, &["128", "-129", "0.0"]),
        (DType::Int16, &["32768", "-32769"]),
        (DType::Int32, &["2147483648", "-2147483649", "1E3"]),
        (DType::Int64, &["9223372036854775808", "-9223372036854775809"]),
        (DType::Fp16, &["65520", "-1e5", "1e400", "true", "\"nan\"", "\"inf\"", "null", "\"1\""]),
        (DType::Bf16, &["3.4e38", "1e39", "1e400"]),
        (DType::Fp32, &["3.5e38", "1e400", "-1e400", "true", "\"NaN \""]),
        (DType::Fp64, &["1e400", "-1e309", "false", "\"\\u004eaN\"", "{}"]),
    ];
    for (dtype, texts) in bad {
        for text in *texts {
            assert!(parse(&format!("[{text}]"), *dtype, &[1]).is_err(), "{text} passed as {dtype}");
        }
    }
    let error = parse("[1,2,300]", DType::Uint8, &[3]).unwrap_err().to_string();
    assert_eq!(error, "data[2] is 300, which UINT8 cannot hold; UINT8 takes whole numbers from 0 to 255");
    let long = format!("[{}]", "9".repeat(10_000));
    assert!(parse(&long, DType::Int64, &[1]).unwrap_err().to_string().len() < 250);
    assert_eq!(parse("[-0,0]", DType::Uint8, &[2]), Ok(vec![0, 0]));
    assert_eq!(parse("[true,false,0,1]", DType::Bool, &[4]), Ok(vec![1, 0, 0, 1]));
    assert_eq!(parse("[-9223372036854775808]", DType::Int64, &[1]), Ok(i64::MIN.to_le_bytes().to_vec()));
    assert_eq!(parse("[65519]", DType::Fp16, &[1]), Ok(f16::MAX.to_le_bytes().to_vec()));
    assert_eq!(parse("[1e-400]", DType::Fp64, &[1]), Ok(vec![0; 8]));
}

#[test]
fn a_short_text_reserves_little_and_deep_nesting_ends_early() {
    let error = parse("[1]", DType::Fp64, &[1 << 40]).unwrap_err();
    assert_eq!(error, NumberError::Count { found: 1, wanted: 1 << 40, shape: shape(&[1 << 40]) });
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for dims in [&[1u64; 16][..], &[0], &[]] {
        assert!(parse(&deep, DType::Fp32, dims).is_err());
    }
    assert!(parse("[1]", DType::Fp64, &[u64::MAX, 8]).is_err());
}

#[test]
fn numbers_are_printed_as_short_as_can_be() {
    let f32s = |vs: &[f32]| text_of(&vs.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>(), DType::Fp32);
    assert_eq!(f32s(&[0.1, -0.0, 1.0, f32::NAN]), r#"[0.1,-0.0,1.0,"NaN"]"#);
    assert_eq!(f32s(&[f32::INFINITY, f32::NEG_INFINITY]), r#"["Infinity","-Infinity"]"#);
    assert_eq!(text_of(&i64::MAX.to_le_bytes(), DType::Int64), "[9223372036854775807]");
    assert_eq!(text_of(&[1, 0], DType::Bool), "[true,false]");
    assert_eq!(text_of(&f64::NEG_INFINITY.to_le_bytes(), DType::Fp64), r#"["-Infinity"]"#);
    assert_eq!(text_of(&[], DType::Fp64), "[]");
}

proptest! {
    #[test]
    fn what_is_written_reads_back(which in 0..DType::ALL.len(), mut data in prop::collection::vec(any::<u8>(), 0..64)) {
        let dtype = DType::ALL[which];
        data.truncate(data.len() / dtype.size() * dtype.size());
        if dtype == DType::Bool {
            data.iter_mut().for_each(|b| *b &= 1);
        }
        let count = data.len() / dtype.size();
        let text = text_of(&data, dtype);
        let back = parse(&text, dtype, &[count as u64]).unwrap();
        // A NaN's payload has no spelling in JSON; everything else comes back bit for bit.
        prop_assert_eq!(text_of(&back, dtype), text.clone());
        if !text.contains("NaN") {
            prop_assert_eq!(back, data);
        }
    }

    #[test]
    fn no_json_makes_it_panic(text in r#"[\[\],0-9eE.{}":tfnaN\\ -]{0,40}"#, which in 0..DType::ALL.len(),
        dims in prop::collection::vec(0u64..4, 0..4)) {
        if serde_json::from_str::<&RawValue>(&text).is_ok()
            && let Ok(bytes) = parse(&text, DType::ALL[which], &dims) {
            prop_assert_eq!(bytes.len(), shape(&dims).bytes(DType::ALL[which]).unwrap());
        }
    }
}

#[test]
fn halves_are_rounded_once() {
    let one = Shape::new(vec![1]).unwrap();
    let read = |text: &str, dtype| {
        let raw: Box<RawValue> = RawValue::from_string(format!("[{text}]")).unwrap();
        super::read(&raw, dtype, &one).unwrap()
    };
    // A hair above the middle between two, and the middle itself, which goes to the even one.
    for (text, dtype, bits) in [
        ("1.0039063", DType::Bf16, 0x3f81_u16),
        ("1.00390625", DType::Bf16, 0x3f80),
        ("1.000488281250001", DType::Fp16, 0x3c01),
        ("1.00048828125", DType::Fp16, 0x3c00),
        ("-1.000488281250001e0", DType::Fp16, 0xbc01),
    ] {
        assert_eq!(read(text, dtype), bits.to_le_bytes(), "{text}");
    }
    // Letters of several bytes are nothing in a list of numbers, wherever they stand.
    for text in ["[é,0]", "[0,é]", "[😀]", "[é", "é"] {
        assert!(super::read_unproved(text, DType::Fp32, &Shape::new(vec![2]).unwrap()).is_err(), "{text}");
    }
}
