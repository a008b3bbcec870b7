//! EasyEdit's files of statistics: archives of NumPy arrays with a sum of products and the number of tokens.

use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use easyedit_core::{Error, ModelSpec, Result, open_input, write_atomically};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::SecondMoments;
use super::npy::{self, Array, Values};

/// What EasyEdit writes under `mom2.constructor`.
const CONSTRUCTOR: &str = "easyeditor.util.runningstats.SecondMoment()";
/// What EasyEdit puts into the name if it cuts documents, to the letter.
const LIMIT_SUFFIX: &str = "_t{batch_tokens}";
/// What a file holds beside its matrix, in bytes: a few scalars, and the archive's directory.
const MAX_OTHER_BYTES: u64 = 1 << 20;

/// A file of EasyEdit's: the moments, and the number of documents they are of.
#[derive(Clone, Debug, PartialEq)]
pub struct NpzMoments {
    /// The moments.
    pub moments: SecondMoments,
    /// `sample_size`; `None` if the whole corpus was used.
    pub sample_size: Option<usize>,
}

/// Where EasyEdit keeps a statistic: `DIR/MODEL/CORPUS_stats/MODULE_float32_mom2_SAMPLES.npz`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EasyEditStats {
    /// Name or path of the model.
    pub model: String,
    /// Name of the corpus.
    pub corpus: String,
    /// The module whose inputs the keys are, e.g. `model.layers.4.mlp.down_proj`.
    pub module: String,
    /// Number of documents asked for.
    pub samples: usize,
}

impl EasyEditStats {
    /// The statistic of a model's layer.
    pub fn of(spec: &ModelSpec, layer: usize, corpus: &str, samples: usize) -> Self {
        let module = spec.modules.mlp_out.replace("{}", &layer.to_string());
        Self { model: spec.name.clone(), corpus: corpus.to_owned(), module, samples }
    }

    /// The file in the folder `stats_dir`. Characters that would lead out of it are replaced.
    pub fn path(&self, stats_dir: &Path) -> PathBuf {
        self.path_as(stats_dir, &flat(&self.model), "")
    }

    fn path_as(&self, stats_dir: &Path, model: &str, limit: &str) -> PathBuf {
        let Self { corpus, module, samples, .. } = self;
        stats_dir.join(model).join(format!("{}_stats", flat(corpus))).join(format!("{module}_float32_mom2{limit}_{samples}.npz"))
    }

    /// The file, if it is there under one of the model's names: its own, `model_name`, or the last part of that path.
    pub fn find(&self, stats_dir: &Path, model_name: &str) -> Option<PathBuf> {
        let last = model_name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let names = [flat(model_name), flat(last), flat(&self.model)];
        let paths = names.iter().filter(|name| !name.is_empty()).flat_map(|name| ["", LIMIT_SUFFIX].map(|limit| (name, limit)));
        paths.map(|(name, limit)| self.path_as(stats_dir, name, limit)).find(|path| path.is_file())
    }

    /// Reads such a file, whose keys are to have width `size`.
    ///
    /// # Errors
    ///
    /// As [`read_npz`]; or if it is of another number of samples.
    pub fn read(&self, path: &Path, size: usize) -> Result<SecondMoments> {
        let NpzMoments { moments, sample_size } = read_npz(path, size)?;
        match sample_size {
            Some(other) if other != self.samples => {
                Err(Error::format(path, format!("says it is of {other} samples instead of {}", self.samples)))
            }
            _ => Ok(moments),
        }
    }
}

/// A name as that of a folder, in EasyEdit's way.
fn flat(name: &str) -> String {
    let flat = name.trim_end_matches('/').replace(['/', '\\'], "_");
    // What would be the folder itself, or the one above.
    if flat.chars().all(|c| c == '.') { flat.replace('.', "_") } else { flat }
}

/// Reads a file of EasyEdit's, of keys of width `size`. No more is unpacked than such a file holds.
///
/// # Errors
///
/// [`Error::Io`] or [`Error::Format`] naming the file, and the array that is missing, wrong, or of keys of another width.
pub fn read_npz(path: &Path, size: usize) -> Result<NpzMoments> {
    // The matrix in `f64`; a packed one that does not shrink grows by less than a hundredth.
    let matrix = (size as u64).saturating_mul(size as u64).saturating_mul(8);
    let (file, _) = open_input(path, matrix.saturating_add(matrix / 64).saturating_add(MAX_OTHER_BYTES))?;
    let broken = |message: String| Error::format(path, message);
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|e| broken(format!("is no archive of NumPy arrays: {e}")))?;
    let mut array = |name: &str, fits: &dyn Fn(&[usize]) -> std::result::Result<(), String>| -> Result<Array> {
        let mut entry = archive.by_name(&format!("{name}.npy")).map_err(|_| broken(format!("has no array {name}; is it EasyEdit's?")))?;
        npy::read(&mut entry, fits).map_err(|message| broken(format!("{name} {message}")))
    };
    let scalar = |shape: &[usize]| match shape.iter().all(|dim| *dim <= 1) {
        true => Ok(()),
        false => Err(format!("has the shape {shape:?} instead of a single value")),
    };
    let square = |shape: &[usize]| match shape {
        [rows, columns] if rows == columns && *rows == size => Ok(()),
        [rows, columns] if rows == columns => Err(format!("is of keys of width {rows}, but those of the model have {size}")),
        _ => Err(format!("has the shape {shape:?} instead of a square")),
    };
    let count = match array("mom2.count", &scalar)?.values {
        Values::Integers(values) => values.first().and_then(|n| u64::try_from(*n).ok()).filter(|n| *n > 0),
        Values::Floats(values) => values.first().filter(|n| **n >= 1.0 && n.fract() == 0.0).map(|n| *n as u64),
        _ => None,
    };
    let count = count.ok_or_else(|| broken("mom2.count is no number of tokens".into()))?;
    // A missing value is a NaN in EasyEdit's files.
    let sample_size = match array("sample_size", &scalar).map(|array| array.values) {
        Ok(Values::Integers(values)) => values.first().and_then(|n| usize::try_from(*n).ok()),
        _ => None,
    };
    let Array { shape, values } = array("mom2.mom2", &square)?;
    let mean: Vec<f32> = match values {
        Values::Singles(sum) => sum.iter().map(|v| (f64::from(*v) / count as f64) as f32).collect(),
        Values::Floats(sum) => sum.iter().map(|v| (v / count as f64) as f32).collect(),
        _ => return Err(broken("mom2.mom2 is not made of floating-point numbers".into())),
    };
    if mean.iter().any(|v| !v.is_finite()) {
        return Err(broken("mom2.mom2 holds NaN or infinity".into()));
    }
    let moments = SecondMoments::from_parts(size, count, mean).filter(|_| size > 0);
    let moments = moments.ok_or_else(|| broken(format!("mom2.mom2 has the shape {shape:?} instead of a square")))?;
    Ok(NpzMoments { moments, sample_size })
}

/// Writes moments over `samples` documents as a file of EasyEdit's.
///
/// # Errors
///
/// [`Error::Io`] naming the file.
pub fn write_npz(path: &Path, moments: &SecondMoments, samples: usize) -> Result<()> {
    let whole = |n: u64| npy::integer(i64::try_from(n).unwrap_or(i64::MAX));
    write_atomically(path, |file| {
        let mut archive = ZipWriter::new_stream(file);
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
        let mut add = |name: &str, head: &[u8], sums: &mut dyn Iterator<Item = f32>| {
            archive.start_file(format!("{name}.npy"), options).map_err(std::io::Error::other)?;
            archive.write_all(head)?;
            let mut bytes = Vec::new();
            for value in sums {
                bytes.extend_from_slice(&value.to_le_bytes());
                if bytes.len() >= 1 << 16 {
                    archive.write_all(&bytes)?;
                    bytes.clear();
                }
            }
            archive.write_all(&bytes)
        };
        let nothing = &mut std::iter::empty();
        add("mom2.constructor", &npy::text(CONSTRUCTOR), nothing)?;
        add("mom2.count", &whole(moments.tokens()), nothing)?;
        let mut sums = moments.mean().iter().map(|mean| (f64::from(*mean) * moments.tokens() as f64) as f32);
        add("mom2.mom2", &npy::header("<f4", &[moments.size(); 2]), &mut sums)?;
        add("sample_size", &whole(samples as u64), nothing)?;
        archive.finish().map_err(std::io::Error::other)?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(model: &str) -> EasyEditStats {
        EasyEditStats { model: model.into(), corpus: "wikipedia".into(), module: "model.layers.4.mlp.down_proj".into(), samples: 100_000 }
    }

    #[test]
    fn files_are_where_easyedit_puts_them() {
        let want = "data/stats/._hugging_cache_llama-2-7b/wikipedia_stats/model.layers.4.mlp.down_proj_float32_mom2_100000.npz";
        assert_eq!(names("./hugging_cache/llama-2-7b").path(Path::new("data/stats")), Path::new(want));
        assert!(names("..").path(Path::new("d")).starts_with("d/__"));
    }

    #[test]
    fn a_file_is_found_by_any_of_the_models_names() {
        let folder = tempfile::tempdir().unwrap();
        let moments = SecondMoments::from_parts(2, 10, vec![0.5, 0.25, 0.25, 1.0]).unwrap();
        for written in ["./hugging_cache/llama-2-7b", "llama-2-7b"] {
            let path = names(written).path(folder.path());
            write_npz(&path, &moments, 100_000).unwrap();
            let wanted = names("own-name");
            let found = wanted.find(folder.path(), "./hugging_cache/llama-2-7b").unwrap();
            assert_eq!((&found, wanted.read(&found, 2).unwrap()), (&path, moments.clone()));
            assert!(wanted.read(&found, 3).unwrap_err().to_string().contains("width 2"));
            assert!(EasyEditStats { samples: 7, ..wanted.clone() }.read(&found, 2).unwrap_err().to_string().contains("100000 samples"));
            assert!(EasyEditStats { samples: 7, ..wanted }.find(folder.path(), "llama-2-7b").is_none());
            std::fs::remove_file(path).unwrap();
        }
    }

    /// An archive of deflated arrays, each a header and so many zero bytes.
    fn deflated(path: &Path, arrays: &[(&str, Vec<u8>, usize)]) {
        let mut archive = ZipWriter::new(std::fs::File::create(path).unwrap());
        for (name, head, zeros) in arrays {
            archive.start_file(format!("{name}.npy"), SimpleFileOptions::default()).unwrap();
            archive.write_all(head).unwrap();
            for _ in 0..zeros / 4096 {
                archive.write_all(&[0; 4096]).unwrap();
            }
        }
        archive.finish().unwrap();
    }

    #[test]
    fn arrays_that_unpack_to_more_than_the_layer_needs_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bomb.npz");
        let message = || read_npz(&path, 2).unwrap_err().to_string();
        let (count, many) = (npy::integer(3), 64 << 20);
        deflated(&path, &[("mom2.count", npy::header("<i8", &[many / 8]), many)]);
        assert!(std::fs::metadata(&path).unwrap().len() < 1 << 20);
        assert!(message().contains("mom2.count has the shape [8388608] instead of a single value"), "{}", message());
        deflated(&path, &[("mom2.count", npy::header("<i8", &[]), many)]);
        assert!(message().contains("mom2.count has more bytes of data"), "{}", message());
        deflated(
            &path,
            &[("mom2.count", count.clone(), 0), ("sample_size", count.clone(), 0), ("mom2.mom2", npy::header("<f4", &[4096, 4096]), many)],
        );
        assert!(message().contains("is of keys of width 4096, but those of the model have 2"), "{}", message());
        deflated(&path, &[("mom2.count", count.clone(), 0), ("sample_size", count, 0), ("mom2.mom2", npy::header("<f4", &[2, 2]), many)]);
        assert!(message().contains("mom2.mom2 has more bytes of data"), "{}", message());
        std::fs::File::create(&path).unwrap().set_len(1 << 30).unwrap();
        assert!(message().contains("at most"), "{}", message());
    }

    #[test]
    fn cut_and_changed_files_are_read_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npz");
        write_npz(&path, &SecondMoments::from_parts(2, 3, vec![1.0; 4]).unwrap(), 5).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for length in 0..bytes.len() {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert!(read_npz(&path, 2).unwrap_err().to_string().contains("x.npz"));
        }
        for place in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[place] ^= 1 << (place % 8);
            std::fs::write(&path, bytes).unwrap();
            if let Ok(read) = read_npz(&path, 2) {
                assert_eq!((read.moments.mean().len(), read.moments.size()), (4, 2), "byte {place}");
            }
        }
    }
}
