//! What the settings say of documents: how sources are read, filtered and turned round.

use super::TrainConfig;
use crate::error::Error;
use eyas_data::{Filters, Fim, HubOptions, SourceOptions};
use std::collections::HashMap;

/// The heading of the settings in the table that other commands which read documents take too.
pub const DOCUMENTS: &str = "Documents";

impl TrainConfig {
    /// The settings of [`DOCUMENTS`] alone, from pairs of a name and an argument; all others have their defaults.
    ///
    /// # Errors
    /// Names and types.
    pub fn documents(arguments: &[(String, String)]) -> Result<Self, Error> {
        let mut config = Self::defaults();
        config.apply(arguments, &mut HashMap::new())?;
        Ok(config)
    }

    /// How documents are read.
    pub fn source_options(&self) -> SourceOptions {
        let filters = Filters {
            max_document_bytes: self.max_document_bytes,
            max_line_length: self.max_line_length,
            max_mean_line_length: self.max_mean_line_length,
            min_alphanumeric: self.min_alphanumeric,
            skip_generated: self.skip_generated,
            keywords: self.keywords.clone(),
            languages: self.languages.clone(),
            include_paths: self.include_paths.clone(),
            exclude_paths: self.exclude_paths.clone(),
            licenses: self.licenses.clone(),
            skip_duplicates: self.skip_duplicates,
            skip_near_duplicates: self.skip_near_duplicates,
            decontaminate: self.decontaminate.clone(),
        };
        SourceOptions {
            text_field: self.text_field.clone(),
            raw: self.raw,
            filters,
            keep_secrets: self.keep_secrets,
            with_licenses: false,
            on_error: self.on_error,
            hub: HubOptions { streaming: self.hub_streaming, ..self.hub.clone() },
        }
    }

    /// How documents are turned round, if they are.
    pub fn fim(&self) -> Option<Fim> {
        (self.fim_rate != 0.0).then_some(Fim {
            rate: self.fim_rate,
            spm_rate: self.fim_spm_rate,
            seed: self.data_seed.unwrap_or(self.seed),
        })
    }
}
