"""The ground: files, console, vocabulary, and facts about the machine."""
