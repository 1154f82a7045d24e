//! Keys that a request names by their parts, or by a digest that it was told before.

use cache_layer::{Key, ResponseKey};
use http::{StatusCode, Uri};

use super::parameters::Parameters;
use crate::{
    problem::Problem,
    redact,
    state::{Context, Layer},
};

impl Context {
    /// The key that `key` or `digest` names, if one of them is given.
    pub(super) fn key(&self, parameters: &Parameters) -> Result<Option<Key>, Problem> {
        let parts: Vec<&str> = parameters.all("key").collect();
        match (parts.is_empty(), parameters.get("digest")) {
            (true, None) => Ok(None),
            (true, Some(digest)) => self.key_with(digest).map(Some),
            (false, None) => Ok(Some(Key::new(parts))),
            (false, Some(_)) => Err(Problem::bad_request("key, digest: only one of them may be given")),
        }
    }

    /// A digest does not lead back to its key: the recorder has to know it.
    fn key_with(&self, digest: &str) -> Result<Key, Problem> {
        self.recorder()?.key_with(digest).ok_or_else(|| {
            Problem::new(
                StatusCode::NOT_FOUND,
                "digest: no key that was asked for lately has it; name the URL, or the parts of the key",
            )
        })
    }

    /// The layer whose response has this key.
    pub(super) fn layer_of(&self, key: &Key) -> Option<(&str, &Layer)> {
        let parts = ResponseKey::of(key)?;
        let uri: Uri = format!("{}{}", parts.origin, parts.path_and_query).parse().ok()?;
        let has_namespace = |layer: &Layer| {
            let of = layer.cache_layer().key(&uri).as_ref().and_then(ResponseKey::of);
            of.is_some_and(|of| of.namespace == parts.namespace)
        };
        self.0.layers.iter().find(|(_, layer)| has_namespace(layer)).map(|(name, layer)| (name.as_str(), layer))
    }

    /// The layer that has this key for a request, and the URL of that request.
    pub(super) fn request_of(&self, key: &Key) -> Option<(&str, &Layer, Uri)> {
        let uri: Uri = redact::target_of(key)?.parse().ok()?;
        let (name, layer) = self.layer_of(key)?;
        (layer.cache_layer().key(&uri).as_ref() == Some(key)).then_some((name, layer, uri))
    }
}
