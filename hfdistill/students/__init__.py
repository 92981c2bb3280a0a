"""Students: ways to build the small model. All give a `PreTrainedModel`."""
