//! EasyEdit's files of statistics: read, and taken into a cache folder.

use std::fs;

use easyedit::kernels::import_npz;
use zip::CompressionMethod;

use super::seed;
use crate::formats::archive;
use crate::scratch::{file, folder};
use crate::small_model::model;

pub(super) fn run(data: &[u8]) -> bool {
    let path = folder("npz");
    let npz = file(&path, "a.npz", data);
    let imported = import_npz(model(), 1, "corpus", Some(10), &npz, &path);
    let _ = fs::remove_dir_all(path.join("stats"));
    imported.is_ok()
}

/// A NumPy array: its type and shape as in the header, and its bytes.
fn array(dtype: &str, shape: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}");
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    [&b"\x93NUMPY\x01\x00"[..], &(header.len() as u16).to_le_bytes(), header.as_bytes(), bytes].concat()
}

pub(super) fn seeds() -> Vec<(String, Vec<u8>)> {
    let width = model().spec().d_mlp;
    let square = |i: usize| if i.is_multiple_of(width + 1) { 2.0 } else { 0.1 };
    let singles: Vec<f32> = (0..width * width).map(|i| square(i) as f32).collect();
    let doubles: Vec<f64> = (0..width * width).map(square).collect();
    let shape = format!("({width}, {width})");
    let count = array("<i8", "()", &20i64.to_le_bytes());
    let text = array("<U3", "()", &[b'a', 0, 0, 0, b'b', 0, 0, 0, b'c', 0, 0, 0]);
    let of = |sums: Vec<u8>, samples: Vec<u8>, method| {
        let files: [(&str, &[u8]); 4] =
            [("mom2.constructor.npy", &text), ("mom2.count.npy", &count), ("mom2.mom2.npy", &sums), ("sample_size.npy", &samples)];
        archive(&files, method)
    };
    let nan = array("<f8", "()", &f64::NAN.to_le_bytes());
    vec![
        seed("single", of(array("<f4", &shape, bytemuck::cast_slice(&singles)), count.clone(), CompressionMethod::Stored)),
        seed("double", of(array("<f8", &shape, bytemuck::cast_slice(&doubles)), nan.clone(), CompressionMethod::Stored)),
        seed("deflated", of(array("<f4", &shape, bytemuck::cast_slice(&singles)), nan, CompressionMethod::Deflated)),
    ]
}
