//! Causal tracing of facts: where in a model's layers and tokens a fact is recalled.
//!
//! [`trace_facts`] runs the experiment of the paper over facts, [`Average`] sums it up by the role of a token, [`suggest_layers`] reads
//! off which layers to edit, and [`write_fact_figure`] and [`write_average_figure`] draw it. The passes themselves are
//! [`easyedit_kernels::trace`]'s.
//!
//! # Source
//!
//! Meng et al. 2022, "Locating and Editing Factual Associations in GPT", sections 2 and appendix B.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod average;
mod fact;
mod figure;
mod options;
mod report;
mod suggestion;

pub use average::{Average, ClassEffects, MeanEffect, PanelAverage, TokenClass};
pub use fact::TraceRequest;
pub use figure::{FigureFormat, write_average_figure, write_fact_figure};
pub use options::{Restored, TraceOptions, default_window};
pub use report::{FactTrace, LeftOut, Panel, TraceReport, TraceSettings, trace_facts};
pub use suggestion::{Suggestion, suggest_layers};
