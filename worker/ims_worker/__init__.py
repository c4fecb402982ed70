"""Who does: workers that submit imports to IMS, look until they end, and say how they ended."""
