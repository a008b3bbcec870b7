//! The `.npy` format, as far as EasyEdit's statistics need it: numbers in any order of bytes, and texts.

use std::io::Read;

use half::f16;

/// First bytes of every file.
const MAGIC: &[u8] = b"\x93NUMPY";
/// No header is longer, in bytes.
const LONGEST_HEADER: usize = 1 << 16;
/// Characters of a text, or bytes of a number, at most.
const LONGEST_ELEMENT: usize = 1 << 12;
/// Headers are padded so that the data begin at a multiple of it.
const ALIGNMENT: usize = 64;

/// An array.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Array {
    /// Empty for a single value.
    pub(super) shape: Vec<usize>,
    pub(super) values: Values,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Values {
    Floats(Vec<f64>),
    Singles(Vec<f32>),
    Integers(Vec<i64>),
    Text(String),
}

/// Reads an array whose shape `fits`; what is wrong with it otherwise. Matrices come as they are stored: by rows, or by columns.
///
/// The header is read first, then no more than the shape needs.
pub(super) fn read(file: &mut impl Read, fits: impl Fn(&[usize]) -> Result<(), String>) -> Result<Array, String> {
    let mut start = Vec::new();
    file.take(MAGIC.len() as u64).read_to_end(&mut start).map_err(|e| format!("cannot be unpacked: {e}"))?;
    if start != MAGIC {
        return Err("is no .npy array".into());
    }
    let length = match take(file, 2)?[..] {
        [1, _] => u32::from(u16::from_le_bytes(take_array(file)?)),
        [2 | 3, _] => u32::from_le_bytes(take_array(file)?),
        [version, _] => return Err(format!("has the unknown version {version}")),
        _ => return Err("is cut off".into()),
    };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > LONGEST_HEADER {
        return Err("has a header that is too long".into());
    }
    let header = String::from_utf8(take(file, length)?).map_err(|_| "has a header that is not text")?;
    let dtype =
        entry(&header, "descr").and_then(quoted).ok_or_else(|| format!("has a header without a simple dtype: {}", header.trim()))?;
    let shape = entry(&header, "shape").and_then(tuple).ok_or_else(|| format!("has a header without a shape: {}", header.trim()))?;
    fits(&shape)?;
    let count = shape.iter().try_fold(1usize, |count, dim| count.checked_mul(*dim)).ok_or("has an impossible shape")?;
    Ok(Array { values: values(dtype, count, file)?, shape })
}

/// The next `length` bytes.
fn take(file: &mut impl Read, length: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    file.take(length as u64).read_to_end(&mut bytes).map_err(|e| format!("cannot be unpacked: {e}"))?;
    if bytes.len() == length { Ok(bytes) } else { Err("is cut off".into()) }
}

fn take_array<const N: usize>(file: &mut impl Read) -> Result<[u8; N], String> {
    take(file, N)?.try_into().map_err(|_| "is cut off".into())
}

fn values(dtype: &str, count: usize, file: &mut impl Read) -> Result<Values, String> {
    let unknown = || format!("has the dtype {dtype}, which is not read; use float32 or float64");
    let (order, kind) = dtype.split_at_checked(1).ok_or_else(unknown)?;
    let big = match order {
        ">" => true,
        "<" | "|" | "=" => false,
        _ => return Err(unknown()),
    };
    let width: usize = kind.get(1..).and_then(|n| n.parse().ok()).filter(|width| *width <= LONGEST_ELEMENT).ok_or_else(unknown)?;
    let kind = kind.chars().next().unwrap_or(' ');
    let width = if kind == 'U' { width * 4 } else { width };
    let bytes = width.checked_mul(count).ok_or("has an impossible shape")?;
    // One byte more, which also tells whether the archive's checksum is right.
    let mut data = Vec::new();
    file.take((bytes as u64).saturating_add(1)).read_to_end(&mut data).map_err(|e| format!("cannot be unpacked: {e}"))?;
    if data.len() != bytes {
        let found = if data.len() > bytes { "more".to_owned() } else { data.len().to_string() };
        return Err(format!("has {found} bytes of data instead of {count} values of {width} bytes"));
    }
    macro_rules! read {
        ($type:ty) => {{
            let chunks = data.as_chunks::<{ size_of::<$type>() }>().0;
            chunks.iter().map(move |bytes| if big { <$type>::from_be_bytes(*bytes) } else { <$type>::from_le_bytes(*bytes) })
        }};
    }
    Ok(match (kind, width) {
        ('f', 8) => Values::Floats(read!(f64).collect()),
        ('f', 4) => Values::Singles(read!(f32).collect()),
        ('f', 2) => Values::Singles(read!(f16).map(f32::from).collect()),
        ('i', 8) => Values::Integers(read!(i64).collect()),
        ('i', 4) => Values::Integers(read!(i32).map(i64::from).collect()),
        ('u', 4) => Values::Integers(read!(u32).map(i64::from).collect()),
        ('U', _) if count == 1 => {
            let text: Option<String> = read!(u32).filter(|c| *c != 0).map(char::from_u32).collect();
            Values::Text(text.ok_or("holds a text that is not Unicode")?)
        }
        _ => return Err(unknown()),
    })
}

/// What stands behind `'key':` in the header, a Python dictionary.
fn entry<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let at = header.find(&format!("'{key}'")).or_else(|| header.find(&format!("\"{key}\"")))?;
    header[at + key.len() + 2..].trim_start().strip_prefix(':').map(str::trim_start)
}

/// The text in the quotation marks that `text` begins with.
fn quoted(text: &str) -> Option<&str> {
    let mark = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(mark).map(|(inside, _)| inside)
}

/// The numbers of the tuple that `text` begins with.
fn tuple(text: &str) -> Option<Vec<usize>> {
    let (inside, _) = text.strip_prefix('(')?.split_once(')')?;
    inside.split(',').map(str::trim).filter(|number| !number.is_empty()).map(|number| number.parse().ok()).collect()
}

/// The bytes before the data of an array.
pub(super) fn header(dtype: &str, shape: &[usize]) -> Vec<u8> {
    let shape = match shape {
        [one] => format!("({one},)"),
        _ => format!("({})", shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")),
    };
    let mut text = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}").into_bytes();
    let start = MAGIC.len() + 4;
    text.resize((start + text.len() + 1).next_multiple_of(ALIGNMENT) - start - 1, b' ');
    text.push(b'\n');
    [MAGIC, &[1, 0], &(text.len() as u16).to_le_bytes(), &text].concat()
}

/// A single whole number.
pub(super) fn integer(value: i64) -> Vec<u8> {
    [header("<i8", &[]), value.to_le_bytes().to_vec()].concat()
}

/// A single text.
pub(super) fn text(value: &str) -> Vec<u8> {
    let data = value.chars().flat_map(|c| u32::from(c).to_le_bytes());
    header(&format!("<U{}", value.chars().count()), &[]).into_iter().chain(data).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(mut bytes: &[u8]) -> Result<Array, String> {
        read(&mut bytes, |_| Ok(()))
    }

    #[test]
    fn a_shape_that_does_not_fit_is_refused_before_its_data_are_read() {
        let mut endless = std::io::Cursor::new(header("<f4", &[1 << 20, 1 << 20])).chain(std::io::repeat(0));
        let message = read(&mut endless, |shape| if shape == [2, 2] { Ok(()) } else { Err("is not 2 by 2".into()) }).unwrap_err();
        assert_eq!(message, "is not 2 by 2");
        let mut more = std::io::Cursor::new(header("<f4", &[2, 2])).chain(std::io::repeat(0));
        assert!(read(&mut more, |_| Ok(())).unwrap_err().contains("more bytes of data"));
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(parse(&integer(-7)), Ok(Array { shape: vec![], values: Values::Integers(vec![-7]) }));
        assert_eq!(parse(&text("naïve()")), Ok(Array { shape: vec![], values: Values::Text("naïve()".into()) }));
        let mut matrix = header("<f4", &[1, 2]);
        assert_eq!(matrix.len() % ALIGNMENT, 0);
        matrix.extend([1.5f32, -2.0].iter().flat_map(|v| v.to_le_bytes()));
        assert_eq!(parse(&matrix), Ok(Array { shape: vec![1, 2], values: Values::Singles(vec![1.5, -2.0]) }));
        assert_eq!(parse(&[header(">f8", &[3]), [2f64.to_be_bytes(); 3].concat()].concat()).unwrap().values, Values::Floats(vec![2.0; 3]));
        assert_eq!(parse(&[header("<f2", &[]), vec![0, 0x3c]].concat()).unwrap().values, Values::Singles(vec![1.0]));
    }

    #[test]
    fn damage_is_told() {
        let sound = integer(7);
        for length in 0..sound.len() {
            assert!(parse(&sound[..length]).is_err(), "{length} bytes");
        }
        for (bytes, part) in [
            (b"PK".to_vec(), "no .npy"),
            (header("|O", &[]), "|O"),
            (header("<f4", &[usize::MAX, 2]), "impossible"),
            (header("<f4", &[1 << 40]), "bytes of data"),
            (header("<U9223372036854775807", &[]), "<U9"),
            ([MAGIC, &[1, 0, 2, 0], b"{}"].concat(), "dtype"),
            ([MAGIC, &[9, 0, 2, 0], b"{}"].concat(), "version 9"),
        ] {
            let message = parse(&bytes).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }
}
