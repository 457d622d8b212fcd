"""Lists of images as people have them: opened, looked at for a new study file, or made from DICOM headers."""
