"""Search in real videos: frames and sentences as vectors, scores of frames, spans of moments."""
