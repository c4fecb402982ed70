"""A cloud to try it on: stand-in IAM and IMS, S3, embedded Valkey, the one-machine stack."""
