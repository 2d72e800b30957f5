"""Snapshots as JSON text: what JSON carries exactly, documents, and the SDKs' envelopes. No I/O."""
