//! Heat maps in the form of the papers: tokens by layers, one panel for each kind of restored states.

mod canvas;
mod colour;
mod heat;
mod lines;

use std::path::Path;

use easyedit_core::{Error, Result, write_atomically};

use crate::{FactTrace, Restored, TokenClass, TraceReport};
use canvas::{png, svg};
use colour::Hue;
use heat::{HeatPanel, Sheet};
use lines::LinePanel;

/// Kind of picture file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FigureFormat {
    /// Vectors, with the viewer's sans-serif font.
    Svg,
    /// Pixels, with DejaVu Sans.
    Png,
}

impl FigureFormat {
    /// The format that a file's ending names.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] naming the file if it ends neither in `.svg` nor in `.png`.
    pub fn of(path: &Path) -> Result<Self> {
        match path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).as_deref() {
            Some("svg") => Ok(Self::Svg),
            Some("png") => Ok(Self::Png),
            _ => Err(Error::format(path, "a figure's name ends in .svg or .png")),
        }
    }
}

/// Draws the trace of one fact into a file whose ending says the format.
///
/// # Errors
///
/// [`Error::Format`] for another ending, [`Error::Io`] if the file cannot be written; nothing is left behind then.
pub fn write_fact_figure(path: &Path, report: &TraceReport, fact: &FactTrace) -> Result<()> {
    write(path, &fact_sheet(report, fact))
}

/// Draws the averages over facts into a file whose ending says the format.
///
/// # Errors
///
/// As [`write_fact_figure`].
pub fn write_average_figure(path: &Path, report: &TraceReport) -> Result<()> {
    write(path, &average_sheet(report))
}

fn write(path: &Path, sheet: &Sheet) -> Result<()> {
    let failed = |message: String| Error::format(path, format!("cannot be drawn: {message}"));
    let bytes = match FigureFormat::of(path)? {
        FigureFormat::Svg => svg(sheet).map_err(failed)?.into_bytes(),
        FigureFormat::Png => png(sheet).map_err(failed)?,
    };
    write_atomically(path, |file| file.write_all(&bytes))
}

fn fact_sheet(report: &TraceReport, fact: &FactTrace) -> Sheet {
    let answer = format!("p({})", fact.answer.trim());
    let labels = (0..fact.tokens.len()).map(|token| fact.label(token));
    let panels = fact.panels.iter().map(|panel| HeatPanel {
        title: format!("Restoring the {}", panel.restored.title()),
        x_title: x_title(panel.restored, panel.window),
        scale_title: answer.clone(),
        hue: hue(panel.restored),
        rows: panel.probabilities.clone(),
        low: fact.corrupted,
        lines: None,
    });
    Sheet {
        title: format!("“{}” → “{}”", fact.prompt, fact.answer.trim()),
        note: format!(
            "{} · {answer} is {:.3} in the clean pass, {:.3} with the subject (*) corrupted · {}",
            report.model,
            fact.clean,
            fact.corrupted,
            noise(report)
        ),
        labels: labels.collect(),
        panels: panels.collect(),
    }
}

fn average_sheet(report: &TraceReport) -> Sheet {
    let average = &report.average;
    let labels = TokenClass::ALL.map(|class| format!("{}{}", class.title(), if class.is_subject() { "*" } else { "" }));
    let panels = average.panels.iter().map(|panel| {
        let means = |class: &TokenClass| panel.classes.get(class).map(|effects| effects.layers.iter().map(|e| e.mean).collect());
        let line = |class: TokenClass| panel.classes.get(&class).map(|effects| (class, effects.layers.clone()));
        HeatPanel {
            title: format!("Restoring the {}", panel.restored.title()),
            x_title: x_title(panel.restored, panel.window),
            scale_title: "average indirect effect".to_owned(),
            hue: hue(panel.restored),
            rows: TokenClass::ALL.iter().map(|class| means(class).unwrap_or_default()).collect(),
            low: 0.0,
            lines: Some(LinePanel { lines: [TokenClass::LastSubject, TokenClass::Last].into_iter().filter_map(line).collect() }),
        }
    });
    let total = average.total_effect;
    let interval = total.interval.map(|half| format!(" ± {half:.3}")).unwrap_or_default();
    Sheet {
        title: format!("Average indirect effect over {} facts, {}", average.facts, report.model),
        note: format!("average total effect {:.3}{interval} · bands and ±: 95 % over facts · {}", total.mean, noise(report)),
        labels: labels.into_iter().collect(),
        panels: panels.collect(),
    }
}

fn x_title(restored: Restored, window: usize) -> String {
    match (restored, window) {
        (_, 1) => "restored layer".to_owned(),
        (_, window) => format!("centre of {window} restored layers"),
    }
}

fn noise(report: &TraceReport) -> String {
    format!("{} samples of noise of {}σ", report.settings.samples, report.settings.noise_factor)
}

/// The papers' colours.
fn hue(restored: Restored) -> Hue {
    match restored {
        Restored::Hidden => Hue::Purple,
        Restored::Mlp => Hue::Green,
        Restored::Attention => Hue::Red,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::average::tests::fact;
    use crate::{Average, TraceSettings};

    fn report() -> TraceReport {
        let mut fact = fact(5, 1..3, Restored::Mlp, |token, layer| 0.1 + 0.04 * (token * layer) as f64);
        fact.tokens[1] = " <b>&\"".into();
        let facts = vec![fact.clone(), fact];
        let settings = TraceSettings { seed: 0, samples: 10, noise_factor: 3.0, embedding_deviation: 0.1, noise: 0.3, window: 1 };
        let average = Average::of(&facts);
        TraceReport { model: "demo".into(), family: "demo".into(), n_layers: 4, settings, facts, left_out: Vec::new(), average }
    }

    #[test]
    fn pictures_hold_the_labels_and_a_cell_for_every_number() {
        let report = report();
        let text = svg(&fact_sheet(&report, &report.facts[0])).unwrap();
        for part in ["&lt;b&gt;&amp;", "t0", "t4", "p(answer)", "Restoring the MLP output", "restored layer"] {
            assert!(text.contains(part), "{part}");
        }
        assert!(text.matches("<rect").count() >= 20, "a cell for each of 5 tokens and 4 layers");
        let text = svg(&average_sheet(&report)).unwrap();
        assert!(text.contains("First subject token*") && text.contains("over 2 facts"), "{text}");
    }

    #[test]
    fn files_are_written_by_their_ending() {
        let dir = tempfile::tempdir().unwrap();
        let report = report();
        let (vector, pixels) = (dir.path().join("a.SVG"), dir.path().join("a.png"));
        write_average_figure(&vector, &report).unwrap();
        write_fact_figure(&pixels, &report, &report.facts[0]).unwrap();
        assert!(std::fs::read_to_string(&vector).unwrap().starts_with("<svg"));
        let mut reader = png::Decoder::new(std::io::Cursor::new(std::fs::read(&pixels).unwrap())).read_info().unwrap();
        let mut buffer = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut buffer).unwrap();
        let dark = buffer.chunks(3).filter(|pixel| pixel.iter().all(|v| *v < 90)).count();
        assert!(dark > 500, "letters are drawn: {dark} dark pixels");
        let message = write_fact_figure(&dir.path().join("a.jpg"), &report, &report.facts[0]).unwrap_err().to_string();
        assert!(message.contains("a.jpg") && message.contains(".svg or .png"), "{message}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
