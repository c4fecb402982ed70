"""The cloud as it really answers: IAM, IMS, and what turns their words into ours."""
