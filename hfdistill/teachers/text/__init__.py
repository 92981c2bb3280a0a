"""Teachers that read text: functions, embedding models, NLI models, language models, answers in a file."""
