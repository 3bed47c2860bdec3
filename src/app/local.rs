//! Local models, in builds that have them and in builds that do not.

use std::sync::Arc;

use super::AppError;
use crate::config::{LocalConfig, LocalModel, UpstreamConfig};
use crate::metrics::EngineMeter;
use crate::upstream::Upstream;

/// Loads the model of a local upstream.
#[cfg(feature = "local")]
pub(super) fn load(
    upstream: &UpstreamConfig,
    local: &LocalConfig,
    meter: EngineMeter,
) -> Result<Arc<dyn Upstream>, AppError> {
    use crate::upstream::local::{LocalUpstream, Params};
    use crate::upstream::transformer;

    // What clients ask for by a pattern has no one name: then the upstream's own is as honest as any.
    let exact = upstream.models.iter().filter(|model| model.is_exact());
    let mut models: Vec<String> = exact.map(|model| model.as_str().to_owned()).collect();
    if models.is_empty() {
        models.push(upstream.name.clone());
    }
    let params = Params {
        name: upstream.name.clone(),
        source: source(&local.model),
        models,
        engine: transformer::Params {
            queue: local.queue,
            ..transformer::Params::default()
        },
        meter: Some(meter),
    };
    let loaded = LocalUpstream::load(params).map_err(|error| AppError::Model {
        upstream: upstream.name.clone(),
        message: error.to_string(),
    })?;
    Ok(Arc::new(loaded))
}

/// Says why a local model cannot be served, as far as that can be known without loading it.
///
/// # Errors
/// A sentence for the user.
#[cfg(feature = "local")]
pub fn check_model(model: &LocalModel) -> Result<(), String> {
    crate::upstream::transformer::check(&source(model)).map_err(|error| error.to_string())
}

#[cfg(feature = "local")]
fn source(model: &LocalModel) -> crate::upstream::transformer::Source {
    use crate::upstream::transformer::Source;
    match model {
        // The configuration knows the names of what is bundled: there is one.
        LocalModel::Bundled(_) => Source::Poet,
        LocalModel::Folder(path) => Source::Folder(path.clone()),
        LocalModel::Gguf(path) => Source::Gguf(path.clone()),
    }
}

#[cfg(not(feature = "local"))]
const NO_LOCAL_MODELS: &str = "this build of Weir has no local models (cargo feature `local`)";

/// Says that there are no local models.
#[cfg(not(feature = "local"))]
pub(super) fn load(
    upstream: &UpstreamConfig,
    _: &LocalConfig,
    _: EngineMeter,
) -> Result<Arc<dyn Upstream>, AppError> {
    Err(AppError::Model {
        upstream: upstream.name.clone(),
        message: NO_LOCAL_MODELS.to_owned(),
    })
}

/// Says that there are no local models.
///
/// # Errors
/// Always.
#[cfg(not(feature = "local"))]
pub fn check_model(_: &LocalModel) -> Result<(), String> {
    Err(NO_LOCAL_MODELS.to_owned())
}
