use super::GpuDevice;
use crate::err;
use crate::problem::kv_cache_append::KvCacheAppend;
use crate::problem::kv_cache_gather::KvCacheGather;
use crate::problem::map_indices::MapIndices;
use crate::status::Result;
impl GpuDevice {
    pub fn kv_cache_append(&self, _: &KvCacheAppend, _: u64) -> Result<()> {
        err!(FLASHMLA_ERROR_UNSUPPORTED, "no GPU kernel yet: the context must be of FLASHMLA_DEVICE_CPU")
    }
    pub fn kv_cache_gather(&self, _: &KvCacheGather, _: u64) -> Result<()> {
        err!(FLASHMLA_ERROR_UNSUPPORTED, "no GPU kernel yet: the context must be of FLASHMLA_DEVICE_CPU")
    }
    pub fn map_indices(&self, _: &MapIndices, _: u64) -> Result<()> {
        err!(FLASHMLA_ERROR_UNSUPPORTED, "no GPU kernel yet: the context must be of FLASHMLA_DEVICE_CPU")
    }
}
