"""Admission of annotated pods on clusters whose API server has no MutatingAdmissionPolicy."""
