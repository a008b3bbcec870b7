use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use easyedit_core::{Progress, write_atomically};
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::changes::Change;
use super::to_json;
use crate::safetensors_source::{INDEX_FILE, SINGLE_FILE};
use crate::{Checkpoint, Error, Result, SafetensorsSource, Shard};

/// Where a source that has no shards of its own is split, in bytes: as `save_pretrained` did for long.
const MAX_SHARD_BYTES: u64 = 5_000_000_000;
/// Bytes that are written between two looks at whether the work is to end.
const WRITTEN_AT_ONCE: usize = 16 << 20;
const METADATA_KEY: &str = "__metadata__";
const FORMAT_KEY: &str = "format";
/// `transformers` refuses files whose metadata does not name a framework it knows.
const FORMAT: &str = "pt";

/// Writes the weight files into `folder`, and gives their size.
pub(super) fn write(source: &Checkpoint, changes: &BTreeMap<String, Change<'_>>, folder: &Path, progress: &dyn Progress) -> Result<u64> {
    match source.files().safetensors() {
        Some(files) => {
            let mut bytes = 0;
            for (number, shard) in files.shards().iter().enumerate() {
                bytes += copy_shard(files, number, shard, changes, folder, progress)?;
            }
            Ok(bytes)
        }
        None => write_anew(source, changes, folder, MAX_SHARD_BYTES, progress),
    }
}

/// Copies a shard with new values in place of the changed tensors: as shape and type stay, so does every offset.
fn copy_shard(
    source: &SafetensorsSource,
    number: usize,
    shard: &Shard,
    changes: &BTreeMap<String, Change<'_>>,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<u64> {
    let name = shard.path().file_name().unwrap_or_default();
    let header = header_with_format(shard)?;
    write_while(&folder.join(name), progress, |w| {
        write_header(w, &header)?;
        let data = shard.data();
        let mut copied = 0;
        for tensor_name in shard.names() {
            let Some(change) = changes.get(tensor_name) else { continue };
            let Some(tensor) = source.tensor(tensor_name).filter(|t| t.shard == number) else { continue };
            w.write_all(data.get(copied..tensor.bytes.start).unwrap_or_default())?;
            w.write_all(&change.bytes)?;
            copied = tensor.bytes.end;
        }
        w.write_all(data.get(copied..).unwrap_or_default())
    })?;
    Ok((8 + header.len() + shard.data().len()) as u64)
}

/// The shard's header as it is, or with a format if it has none.
fn header_with_format(shard: &Shard) -> Result<Vec<u8>> {
    if shard.format().is_some() {
        return Ok(shard.header().to_vec());
    }
    let mut header: Map<String, Value> = serde_json::from_slice(shard.header())
        .map_err(|e| Error::format(shard.path(), format!("its header cannot be written again: {e}")))?;
    let metadata = header.entry(METADATA_KEY).or_insert_with(|| json!({}));
    match metadata.as_object_mut() {
        Some(metadata) => {
            metadata.insert(FORMAT_KEY.to_owned(), json!(FORMAT));
        }
        None => *metadata = json!({ FORMAT_KEY: FORMAT }),
    }
    Ok(padded(&Value::Object(header)))
}

/// A header's JSON, padded so that the data behind it is aligned.
fn padded(header: &Value) -> Vec<u8> {
    let mut bytes = header.to_string().into_bytes();
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    bytes
}

/// Writes a file through `fill`, until `progress` says that the work is to end.
fn write_while(path: &Path, progress: &dyn Progress, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let written = write_atomically(path, |out| fill(&mut Cancellable { out, progress }));
    progress.check()?;
    Ok(written?)
}

/// A writer that fails once the work is to end.
struct Cancellable<'a> {
    out: &'a mut dyn Write,
    progress: &'a dyn Progress,
}

impl Write for Cancellable<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.progress.check().map_err(io::Error::other)?;
        self.out.write(bytes.get(..WRITTEN_AT_ONCE).unwrap_or(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn write_header(w: &mut dyn Write, header: &[u8]) -> std::io::Result<()> {
    w.write_all(&(header.len() as u64).to_le_bytes())?;
    w.write_all(header)
}

/// A tensor to be written.
struct Part {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: u64,
}

/// Writes a source of another format, one tensor at a time.
fn write_anew(
    source: &Checkpoint,
    changes: &BTreeMap<String, Change<'_>>,
    folder: &Path,
    max_bytes: u64,
    progress: &dyn Progress,
) -> Result<u64> {
    let shards = split(parts(source)?, max_bytes);
    let total: u64 = shards.iter().flatten().map(|part| part.bytes).sum();
    if let [single] = &shards[..] {
        return write_shard_anew(source, changes, single, &folder.join(SINGLE_FILE), progress);
    }
    let mut weight_map = BTreeMap::new();
    let mut written = 0;
    for (number, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
        written += write_shard_anew(source, changes, shard, &folder.join(&name), progress)?;
        weight_map.extend(shard.iter().map(|part| (part.name.clone(), name.clone())));
    }
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    write_atomically(&folder.join(INDEX_FILE), |w| w.write_all(&to_json(&index)))?;
    Ok(written)
}

fn parts(source: &Checkpoint) -> Result<Vec<Part>> {
    let mut names = source.tensors().names();
    names.sort();
    // Wide numbers first, as the safetensors library writes them: every tensor then begins at a multiple of its numbers' size.
    names.sort_by_key(|name| std::cmp::Reverse(source.files().saved_dtype(name).bitsize()));
    names
        .into_iter()
        .map(|name| {
            let shape =
                source.files().shape(&name).ok_or_else(|| Error::tensor(&name, source.path(), "is listed, but its shape is not known"))?;
            let dtype = source.files().saved_dtype(&name);
            let size = (dtype.bitsize() / 8) as u64;
            let bytes = shape.iter().try_fold(size, |product, dim| product.checked_mul(*dim as u64));
            let bytes = bytes.ok_or_else(|| Error::tensor(&name, source.path(), format!("has an absurd shape {shape:?}")))?;
            Ok(Part { name, dtype, shape, bytes })
        })
        .collect()
}

/// Splits the tensors, in order, so that no shard is larger than `max_bytes` unless a single tensor is. At least one shard.
fn split(parts: Vec<Part>, max_bytes: u64) -> Vec<Vec<Part>> {
    let mut shards = Vec::new();
    let (mut shard, mut size) = (Vec::new(), 0u64);
    for part in parts {
        if !shard.is_empty() && size.saturating_add(part.bytes) > max_bytes {
            shards.push(std::mem::take(&mut shard));
            size = 0;
        }
        size = size.saturating_add(part.bytes);
        shard.push(part);
    }
    shards.push(shard);
    shards
}

fn write_shard_anew(
    source: &Checkpoint,
    changes: &BTreeMap<String, Change<'_>>,
    parts: &[Part],
    path: &Path,
    progress: &dyn Progress,
) -> Result<u64> {
    let mut header = Map::new();
    header.insert(METADATA_KEY.to_owned(), json!({ FORMAT_KEY: FORMAT }));
    let mut end = 0;
    for part in parts {
        let start = end;
        end += part.bytes;
        header.insert(part.name.clone(), json!({ "dtype": part.dtype, "shape": part.shape, "data_offsets": [start, end] }));
    }
    let header = padded(&Value::Object(header));
    let mut unreadable = None;
    let written = write_while(path, progress, |w| {
        write_header(w, &header)?;
        for part in parts {
            match changes.get(&part.name) {
                Some(change) => w.write_all(&change.bytes)?,
                None => match source.files().bytes(&part.name) {
                    Ok(bytes) if bytes.len() as u64 == part.bytes => w.write_all(&bytes)?,
                    other => {
                        let cut = || Error::tensor(&part.name, source.path(), "has more or fewer bytes than its shape needs");
                        unreadable = Some(other.err().unwrap_or_else(cut));
                        return Err(std::io::Error::other("the source cannot be read"));
                    }
                },
            }
        }
        Ok(())
    });
    if let Some(error) = unreadable {
        return Err(error);
    }
    written?;
    Ok(8 + header.len() as u64 + end)
}

#[cfg(test)]
mod tests {
    use easyedit_core::{Silent, Tokenizer};

    use super::*;
    use crate::{CheckpointFiles, TensorSource};

    /// Three tensors in no file: a checkpoint of a format of its own.
    struct InMemory(Value);

    impl TensorSource for InMemory {
        fn names(&self) -> Vec<String> {
            ["c", "a", "b"].map(str::to_owned).into()
        }

        fn contains(&self, name: &str) -> bool {
            ["a", "b", "c"].contains(&name)
        }

        fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
            Ok(vec![f32::from(name.as_bytes()[0]); shape.iter().product()])
        }

        fn path(&self) -> &Path {
            Path::new("memory")
        }
    }

    impl CheckpointFiles for InMemory {
        fn config(&self) -> &Value {
            &self.0
        }

        fn tensors(&self) -> &dyn TensorSource {
            self
        }

        fn shape(&self, name: &str) -> Option<Vec<usize>> {
            self.contains(name).then(|| vec![2, 3])
        }

        fn tokenizer(&self) -> Result<Tokenizer> {
            Err(Error::NotFound("no tokenizer".into()))
        }

        fn companions(&self) -> Result<BTreeMap<String, Vec<u8>>> {
            Ok(BTreeMap::new())
        }
    }

    #[test]
    fn a_source_without_shards_is_split_with_an_index() {
        let source = Checkpoint::from_files(Path::new("memory"), Box::new(InMemory(json!({}))));
        let dir = tempfile::tempdir().unwrap();
        let written = write_anew(&source, &BTreeMap::new(), dir.path(), 50, &Silent).unwrap();
        assert!(dir.path().join("model-00001-of-00002.safetensors").exists());
        let opened = SafetensorsSource::open(dir.path()).unwrap();
        assert!(opened.is_sharded());
        assert_eq!(opened.names(), ["a", "b", "c"]);
        for name in ["a", "b", "c"] {
            assert_eq!(opened.read(name, &[2, 3]).unwrap(), source.tensors().read(name, &[2, 3]).unwrap());
        }
        let on_disk: u64 = opened.shards().iter().map(|s| s.path().metadata().unwrap().len()).sum();
        assert_eq!(written, on_disk);
        let index: Value = serde_json::from_slice(&std::fs::read(dir.path().join(INDEX_FILE)).unwrap()).unwrap();
        assert_eq!(index["metadata"]["total_size"], 72);
    }

    #[test]
    fn shards_hold_at_most_the_limit_and_every_tensor_once() {
        let part = |bytes: u64| Part { name: format!("t{bytes}"), dtype: Dtype::F32, shape: vec![], bytes };
        let shards = split([4, 4, 4, 20, 1, 8].map(part).into(), 8);
        let sizes: Vec<Vec<u64>> = shards.iter().map(|s| s.iter().map(|p| p.bytes).collect()).collect();
        assert_eq!(sizes, [vec![4, 4], vec![4], vec![20], vec![1], vec![8]].map(|v| v.to_vec()));
        assert_eq!(split(Vec::new(), 8).len(), 1);
    }
}
