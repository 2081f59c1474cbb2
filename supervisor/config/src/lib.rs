//! What the operator wrote, checked: configuration, limits and model manifests.
