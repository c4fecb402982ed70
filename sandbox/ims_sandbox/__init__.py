"""A simulated cloud: IAM and IMS, S3, embedded Valkey and a stack on one machine."""
